"""A temporary server for a command: `bioengine up` as a child process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from bioengine_server.errors import StackError
from bioengine_server.network.http_get import get
from bioengine_server.settings import Settings

_START_TIMEOUT = 180.0  # seconds


@contextmanager
def own_server(settings: Settings, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the context ends; it is ready when the context begins. Raises StackError, WrongEnvironment.

    Args:
        settings: the server's settings.
        environment: further environment variables.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bioengine_server.bound", "up"],
            env={**environment_of(settings), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # Not in this process group: after Ctrl-C, this process stops it in order, once.
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _START_TIMEOUT
            while reason := why_not_ready(settings.url):
                if process.poll() is not None:
                    errors.seek(0)
                    raise StackError(errors.read().decode(errors="replace").strip().removeprefix("bioengine: "))
                if time.monotonic() > deadline:
                    raise StackError(
                        f"The server did not become ready within {_START_TIMEOUT:.0f} s: {reason}. `./bioengine up` shows more."
                    )
                time.sleep(0.2)
            yield process
        finally:
            process.communicate()  # closing its input makes it stop in order


def why_not_ready(url: str) -> str | None:
    """Why the server at `url` is not ready; None if it is ready. Raises WrongEnvironment."""
    try:
        answer = get(f"{url}/health/readiness", 5)
        return None if answer.status_code == 200 else str(answer.json()["reason"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        return f"it does not answer ({type(error).__name__})"


def environment_of(settings: Settings) -> dict[str, str]:
    """This process's environment, with a variable for each setting."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude={"triton_secret"})
    return {**os.environ, **{f"BIOENGINE_{name.upper()}": str(value) for name, value in values.items()}}
