"""geventhttpclient's private names: the socket to which tritonclient's synchronous clients connect."""

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
    """Raises LibraryChanged if geventhttpclient is not the version that was reviewed."""
    require("geventhttpclient", VERSION, PARTS)


def connect_to_socket(client: HTTPClient, path: str) -> None:
    """Make a new client connect to a Unix socket instead of the host that it was given. Raises LibraryChanged."""
    check()
    pool: Any = client._connection_pool
    pool._resolve = lambda: [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)]  # the client gets the socket to connect from here
