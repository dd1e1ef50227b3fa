"""What the server says of its workers and of the requests that need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import httpx
from pydantic import BaseModel, Field, ValidationError

from bioengine_server.network.http_get import get
from bioengine_server.slurm.errors import (
    NoTokenFile,
    NoWorkersThere,
    ServerAway,
    UnreadableFigures,
    WorkerTokenRefused,
)

_TIMEOUT = 10.0  # seconds


class Worker(BaseModel):
    """A worker that has joined.

    Attributes:
        name: ends with `-JOB` if it runs in a job of Slurm.
        places: how many requests it takes at once.
    """

    name: str
    state: Literal["ready", "starting", "draining"]
    places: int = Field(ge=1)
    in_flight: int = Field(ge=0)

    @property
    def draining(self) -> bool:
        return self.state == "draining"

    def is_of(self, job_id: str) -> bool:
        """Whether it runs in this job of Slurm."""
        return self.name.endswith(f"-{job_id}")


class Figures(BaseModel):
    """The answer of `GET /workers`: requests that wait for a worker, and that run at one."""

    workers: Sequence[Worker]
    waiting: int = Field(ge=0)
    running: int = Field(ge=0)

    def of(self, job_id: str) -> Worker | None:
        return next((worker for worker in self.workers if worker.is_of(job_id)), None)


class Server:
    """The server that the workers join."""

    def __init__(self, url: str, token_file: Path | None) -> None:
        self.url = url.rstrip("/")
        self._token_file = token_file

    def figures(self) -> Figures:
        """Ask it. Raises NoTokenFile, ServerAway, WorkerTokenRefused, NoWorkersThere, UnreadableFigures, WrongEnvironment."""
        headers = {"Authorization": f"Bearer {self._token()}"}
        try:
            answer = get(f"{self.url}/workers", _TIMEOUT, headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerAway(self.url, str(error) or type(error).__name__) from None
        if answer.status_code in (401, 403):
            raise WorkerTokenRefused(self.url, _said(answer))
        if answer.status_code == 404:
            raise NoWorkersThere(self.url)
        if answer.status_code >= 500:
            raise ServerAway(self.url, f"status {answer.status_code}: {_said(answer)}")
        try:
            return Figures.model_validate_json(answer.content)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the answer"
            raise UnreadableFigures(self.url, f"{where}: {problem['msg']}, status {answer.status_code}") from None

    def _token(self) -> str:
        """Read each time, so that a new token needs no restart."""
        if self._token_file is None:
            raise NoTokenFile(None, "")
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except UnicodeDecodeError:
            raise NoTokenFile(self._token_file, "does not contain a token") from None
        except OSError as error:
            raise NoTokenFile(self._token_file, f"cannot be read ({error.strerror or error})") from None
        if not token or not token.isprintable() or " " in token:
            raise NoTokenFile(self._token_file, "does not contain a token" if token else "is empty")
        return token


def _said(answer: httpx.Response) -> str:
    try:
        said = answer.json()
        return str(said.get("error") or said.get("detail") or "without a word")
    except (ValueError, AttributeError):
        return "without a word"
