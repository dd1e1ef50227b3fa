"""How Triton is reached: over HTTP at a URL, or over HTTP on a Unix socket, `unix:/path`, that no other user can open.

A model may end up where Triton's socket was: whoever listens there is looked at before anything is sent. And whatever answers, no
answer fills this process's memory.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from tritonclient.http.aio import InferenceServerClient

from bioengine_server.foreign import aiohttp as aiohttp_border
from bioengine_server.foreign import tritonclient as tritonclient_border

UNIX = "unix:"

# What requests name as their host on a Unix socket, where there is none.
_HOST = "triton"


class Redirected(aiohttp.ClientError):
    """Triton redirects nobody: what does is something else, and neither requests nor the secret go where it says."""


async def _no_redirects(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise Redirected(f"it answered {response.status}")
    return response


NO_REDIRECTS = (_no_redirects,)
"""`middlewares` of each session: no request is sent on to where an answer says."""

# Of an answer that is read as a whole.
_MAX_ANSWER = 8 << 30  # bytes


class NotTriton(aiohttp.ClientConnectionError):
    def __init__(self) -> None:
        super().__init__("Another process than Triton listens in its place.")


class AnswerTooLarge(aiohttp.ClientPayloadError):
    def __init__(self) -> None:
        super().__init__(f"The answer has more than {_MAX_ANSWER} bytes.")


class BoundedAnswer(aiohttp_border.WholeResponse):
    """An answer that is read as a whole only if it is not too large."""

    async def read_whole(self) -> bytes:
        parts, left = [], _MAX_ANSWER
        async for part in self.content.iter_any():
            left -= len(part)
            if left < 0:
                self.close()
                raise AnswerTooLarge
            parts.append(part)
        return b"".join(parts)


class TritonConnector(aiohttp_border.CheckedUnixConnector):
    """Connections to a Triton of our own user's."""

    def look_at(self, transport: asyncio.Transport | None) -> None:
        if transport is None or not is_triton(transport.get_extra_info("socket")):
            raise NotTriton


def is_triton(connection: socket.socket) -> bool:
    """Whether our user's process that leads its process group listens at the other end.

    Triton leads its group. Its models are in it and can neither leave it nor lead one (`bioengine_runner.confinement.seccomp`).
    """
    pid: int
    user: int
    pid, user, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    try:
        return user == os.geteuid() and os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def base_url(url: str) -> str:
    """What the paths of requests are added to."""
    return f"http://{_HOST}" if url.startswith(UNIX) else url


def connector(url: str) -> aiohttp.BaseConnector:
    """Connections for a session of our own, as many as there are requests."""
    return TritonConnector(url.removeprefix(UNIX), limit=0) if url.startswith(UNIX) else aiohttp.TCPConnector(limit=0)


def triton_client(url: str, timeout: float) -> InferenceServerClient:
    """`tritonclient`'s client for a Triton, within a running event loop. Raises LibraryChanged.

    Args:
        url: such as http://127.0.0.1:8000 or unix:/run/bioengine/http.
        timeout: seconds that a request may take in all, a run of a model included.
    """
    aiohttp_border.check()
    tritonclient_border.check()
    parts = urlsplit(base_url(url))
    # `conn_timeout` is aiohttp's limit for the whole request.
    client = InferenceServerClient(
        parts.netloc + parts.path.rstrip("/"), ssl=parts.scheme == "https", conn_limit=0, conn_timeout=timeout
    )
    # Neither for Unix sockets nor against redirects has it an option: another session with the same settings takes the place of
    # its own.
    tritonclient_border.replace_session(
        client,
        connector(url) if url.startswith(UNIX) else None,
        timeout=aiohttp.ClientTimeout(total=timeout),
        auto_decompress=False,
        response_class=BoundedAnswer,
        middlewares=NO_REDIRECTS,
    )
    return client


def socket_url(path: Path) -> str:
    """The URL of a Triton that listens on a Unix socket."""
    return f"{UNIX}{path}"
