"""The server, as a worker asks it over HTTP."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from bioengine_contract.errors import BioEngineError
from pydantic import BaseModel, ValidationError

from bioengine_server.workers.parcel import MEDIA_TYPE, BadParcel, Parcel, Place, receive
from bioengine_server.workers.protocol import INSTANCE, TAKE_TIMEOUT, Beat, Join, Joined, Lane, Orders

_Answer = TypeVar("_Answer", bound=BaseModel)

_MAX_PARCEL = 8 << 30  # bytes
_BUFFER = 1 << 20  # bytes
_ANSWERS_WITHIN = 2.5  # seconds, of what is short
_CONNECTS_WITHIN = 5.0  # seconds
_SILENT_FOR = 60.0  # seconds in which nothing arrives of something long


class ServerAway(Exception):
    """The server does not answer, or not as it should. The text says why, as the second half of a sentence."""


class NotJoinedAnyMore(Exception):
    """The server knows this joining no more."""


class Refused(BioEngineError):
    """The server does not take this worker, and says why."""

    code = "refused_by_server"

    def __init__(self, text: str, code: str = code) -> None:
        super().__init__(text)
        self.code = code  # type: ignore[misc]  # the server's own


class Server:
    """One server, and the joining of one worker there. A context manager."""

    def __init__(self, url: str, token: str, name: str) -> None:
        self.url = url
        self._token = token
        self._path = f"/workers/{name}"
        self._instance = ""
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTS_WITHIN, sock_read=_SILENT_FOR)

    async def __aenter__(self) -> Server:
        self._session = aiohttp.ClientSession(
            # As many as it has places, and what is short beside them.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=self._timeout,
            read_bufsize=_BUFFER,
            headers={"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._session is not None
        await self._session.close()

    async def join(self, join: Join) -> Joined:
        """Raises Refused, ServerAway."""
        joined = _read(Joined, await self._say("/join", join.model_dump_json(), may_be_refused=True))
        self._instance = joined.instance
        return joined

    async def beat(self, beat: Beat) -> Orders:
        """Raises NotJoinedAnyMore, ServerAway."""
        return _read(Orders, await self._say("/beat", beat.model_dump_json()))

    async def leave(self) -> None:
        """Raises NotJoinedAnyMore, ServerAway."""
        await self._say("/leave", "{}")

    async def take(self, lane: Lane, place: Place) -> tuple[str, Parcel] | None:
        """The next job with its id; None where there is none for now. Raises NotJoinedAnyMore, ServerAway.

        Args:
            lane: which jobs.
            place: where its arrays go.
        """
        async with self._asked("GET", f"{self._path}/take?lane={lane}", None, {}, TAKE_TIMEOUT + _SILENT_FOR) as response:
            if response.status == 204:
                return None
            await self._check(response)
            with reading():
                return response.headers["x-bioengine-job"], await receive(response.content.iter_any(), _MAX_PARCEL, place=place)

    async def answer(self, job: str, parcel: Parcel) -> None:
        """Raises NotJoinedAnyMore, ServerAway."""
        size, parts = parcel.parts()
        headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(size)}
        async with self._asked("POST", f"{self._path}/answer/{job}", _sent(parts), headers, None) as response:
            await self._check(response)

    @contextlib.asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A file of the server. Raises ServerAway."""
        async with self._asked("GET", path, None, headers, None) as response:
            if response.status not in (200, 206, 416):
                raise ServerAway(f"it answers with {response.status} to GET {path[:200]}")
            yield response

    async def _say(self, what: str, body: str, may_be_refused: bool = False) -> bytes:
        headers = {"Content-Type": "application/json"}
        async with self._asked("POST", self._path + what, body, headers, _ANSWERS_WITHIN) as response:
            await self._check(response, may_be_refused)
            with reading():
                return await response.read()

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], timeout: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's response. Raises ServerAway."""
        assert self._session is not None
        own = {**headers, INSTANCE: self._instance} if self._instance else dict(headers)
        limit = self._timeout if timeout is None else aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECTS_WITHIN)
        try:
            response = await self._session.request(
                method, self.url + path, data=body, headers=own, allow_redirects=False, timeout=limit
            )
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise ServerAway(
                f"its certificate is not accepted here ({error}); name the file of its authority in SSL_CERT_FILE"
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ServerAway(str(error) or type(error).__name__) from error
        try:
            yield response
        finally:
            response.release()

    async def _check(self, response: aiohttp.ClientResponse, may_be_refused: bool = False) -> None:
        """Raises NotJoinedAnyMore, Refused, ServerAway."""
        if response.status < 300:
            return
        text, code = await _reason(response)
        if may_be_refused and 400 <= response.status < 500 and response.status not in (408, 429):
            raise _refused(response.status, text, code)
        if response.status == 410:
            raise NotJoinedAnyMore(text)
        if response.status in (401, 403):
            raise _refused(response.status, text, code)
        raise ServerAway(f"it answers with {response.status}: {text[:300]}")


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """What goes wrong while an answer of the server is read: ServerAway."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, BadParcel, KeyError) as error:
        raise ServerAway(str(error) or type(error).__name__) from error


def _read(kind: type[_Answer], answer: bytes) -> _Answer:
    """Raises ServerAway for what something else has answered, such as a proxy whose server is away."""
    try:
        return kind.model_validate_json(answer)
    except ValidationError:
        raise ServerAway(f"its answer is none of a BioEngine server: {answer[:60].decode(errors='replace')!r}") from None


def _refused(status: int, text: str, code: str) -> Refused:
    if status == 404:
        return Refused(
            "The server has no routes for workers: it is not a BioEngine server, or an older version. Check its URL and version."
        )
    return Refused(text, code)


async def _reason(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """What the server says is wrong, and its code."""
    try:
        answer = await response.json(content_type=None)
        return str(answer["error"]), str(answer["code"])
    except (ValueError, TypeError, KeyError, aiohttp.ClientError):
        return response.reason or "without a reason", ""


async def _sent(parts: Iterator[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    for part in parts:
        yield part
