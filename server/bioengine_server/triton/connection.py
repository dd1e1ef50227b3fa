"""How Triton is reached: over HTTP at a URL, or over HTTP on a Unix socket, `unix:/path`, that no other user can open.

Everything that touches `tritonclient`'s private parts is here.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from tritonclient.http.aio import InferenceServerClient

from bioengine_server.errors import StackError

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


class ClientChanged(StackError):
    def __init__(self) -> None:
        super().__init__(
            "The installed tritonclient keeps its connections elsewhere than this server knows. "
            "Install the version that server/requirements.txt names."
        )


def base_url(url: str) -> str:
    """What the paths of requests are added to."""
    return f"http://{_HOST}" if url.startswith(UNIX) else url


def connector(url: str) -> aiohttp.BaseConnector:
    """Connections for a session of our own, as many as there are requests."""
    return aiohttp.UnixConnector(url.removeprefix(UNIX), limit=0) if url.startswith(UNIX) else aiohttp.TCPConnector(limit=0)


def triton_client(url: str, timeout: float) -> InferenceServerClient:
    """`tritonclient`'s client for a Triton, within a running event loop. Raises ClientChanged.

    Args:
        url: such as http://127.0.0.1:8000 or unix:/run/bioengine/http.
        timeout: seconds that a request may take in all, a run of a model included.
    """
    parts = urlsplit(base_url(url))
    # `conn_timeout` is aiohttp's limit for the whole request.
    client = InferenceServerClient(
        parts.netloc + parts.path.rstrip("/"), ssl=parts.scheme == "https", conn_limit=0, conn_timeout=timeout
    )
    # tritonclient 2.73 has no option for Unix sockets, nor against redirects: another session with the same settings takes the
    # place of its own.
    session = getattr(client, "_stub", None)
    if not isinstance(session, aiohttp.ClientSession) or getattr(client, "_conn", None) is not session.connector:
        raise ClientChanged
    session.detach()
    if url.startswith(UNIX):
        client._conn = connector(url)
    client._stub = aiohttp.ClientSession(
        connector=client._conn, timeout=aiohttp.ClientTimeout(total=timeout), auto_decompress=False, middlewares=NO_REDIRECTS
    )
    return client


def socket_url(path: Path) -> str:
    """The URL of a Triton that listens on a Unix socket."""
    return f"{UNIX}{path}"
