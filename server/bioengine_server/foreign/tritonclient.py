"""tritonclient's private names: where its clients keep what they connect with, for which version 2.73 has no options."""

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
    """Raises LibraryChanged where tritonclient is not the one that this module knows."""
    require("tritonclient", VERSION, PARTS)


def replace_session(client: AsyncClient, connector: aiohttp.BaseConnector | None, **options: Any) -> None:
    """Have a client that was just made send its requests through another session.

    Args:
        client: within a running event loop.
        connector: of the new session; None: the client's own.
        options: of `aiohttp.ClientSession`.
    """
    own = client._conn
    client._stub.detach()
    client._conn = own if connector is None else connector
    client._stub = aiohttp.ClientSession(connector=client._conn, **options)


def connect_to_socket(client: InferenceServerClient, path: str) -> None:
    """Have a client that was just made connect to a Unix socket, whatever host it was given. Raises LibraryChanged."""
    check()
    geventhttpclient.connect_to_socket(client._client_stub, path)
