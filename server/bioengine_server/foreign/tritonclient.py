"""tritonclient's private names: the connections of its clients, which version 2.73 has no options for."""

from __future__ import annotations

from typing import Any

import aiohttp
from tritonclient.http import InferenceServerClient
from tritonclient.http.aio import InferenceServerClient as AsyncClient

from bioengine_server.foreign import geventhttpclient
from bioengine_server.library import require

VERSION = "2.73.0"
PARTS = {
    "http.InferenceServerClient.__init__": (InferenceServerClient.__init__, "08fd806f597c"),
    "http.aio.InferenceServerClient.__init__": (AsyncClient.__init__, "6ae580115f85"),
    "http.aio.InferenceServerClient.close": (AsyncClient.close, "534a9eae2364"),
}


def check() -> None:
    """Raises LibraryChanged if tritonclient is not the version that was reviewed."""
    require("tritonclient", VERSION, PARTS)


def replace_session(client: AsyncClient, connector: aiohttp.BaseConnector | None, **options: Any) -> None:
    """Make a new client send its requests through another session.

    Args:
        client: created within a running event loop.
        connector: for the new session; None for the client's own.
        options: for `aiohttp.ClientSession`.
    """
    own = client._conn
    client._stub.detach()
    client._conn = own if connector is None else connector
    client._stub = aiohttp.ClientSession(connector=client._conn, **options)


def connect_to_socket(client: InferenceServerClient, path: str) -> None:
    """Make a new client connect to a Unix socket instead of the host that it was given. Raises LibraryChanged."""
    check()
    geventhttpclient.connect_to_socket(client._client_stub, path)
