"""geventhttpclient's private names: what the clients of tritonclient that are not asyncio's connect to."""

from __future__ import annotations

import socket
from typing import Any

from geventhttpclient import HTTPClient
from geventhttpclient.connectionpool import ConnectionPool

from bioengine_server.library import require

VERSION = "2.6.1"
PARTS = {
    "HTTPClient": (HTTPClient, "065ddd6c9e98"),
    "ConnectionPool": (ConnectionPool, "a2c97ab939a3"),
}


def check() -> None:
    """Raises LibraryChanged where geventhttpclient is not the one that this module knows."""
    require("geventhttpclient", VERSION, PARTS)


def connect_to_socket(client: HTTPClient, path: str) -> None:
    """Have a client that was just made connect to a Unix socket, whatever host it was given. Raises LibraryChanged."""
    check()
    pool: Any = client._connection_pool
    pool._resolve = lambda: [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)]  # it asks there for what to connect to
