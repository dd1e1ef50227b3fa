"""uvicorn's internal classes for HTTP and websocket connections, from which the server's own protocols are derived."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bioengine_server.library import require

__all__ = ["Flow", "H11Protocol", "Server", "WebSocketsSansIOProtocol", "check"]

VERSION = "0.54.0"
PARTS = {
    "FlowControl": (FlowControl, "126debcdaa89"),
    "H11Protocol": (H11Protocol, "c2573d455fed"),
    "WebSocketsSansIOProtocol": (WebSocketsSansIOProtocol, "0bbcec989384"),
}


def check() -> None:
    """Raises LibraryChanged if uvicorn is not the version that was reviewed."""
    require("uvicorn", VERSION, PARTS)


class Server(uvicorn.Server):
    """uvicorn, whose signals are handled by whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Flow(FlowControl):
    """Controls whether more bytes are read from a connection."""

    @property
    def transport(self) -> asyncio.Transport:
        return self._transport
