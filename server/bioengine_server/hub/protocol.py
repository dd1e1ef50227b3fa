"""uvicorn's ends of connections, with a deadline for the header of a request and a bound of connections.

uvicorn 0.54 waits for ever for a header, from any number of connections. This module has all that is used of its own names, and
`check_uvicorn` says so where one of them has gone.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from bioengine_server.errors import StackError
from bioengine_server.hub.connections import Connections
from bioengine_server.web.headers import SAFE_HEADERS

HEADER_TIMEOUT = 15.0
"""Seconds that the header of a request may take, from the connection or its first byte to its last."""

_HTTP_NAMES = (
    "connection_made", "connection_lost", "data_received", "on_response_complete", "send_400_response",
    "conn", "transport", "loop", "client", "scope",
)  # fmt: skip
_WEBSOCKET_NAMES = ("connection_lost", "send", "transport", "handshake_complete")


def protocols(connections: Connections) -> dict[str, Any]:
    """Arguments of `uvicorn.Config` for guarded ends of HTTP and of websockets.

    Args:
        connections: where they are counted.
    """
    shared = {"open_connections": connections}
    return {
        "http": type("GuardedHttp", (_GuardedHttp,), shared),
        "ws": type("GuardedWebSocket", (_GuardedWebSocket,), shared),
    }


def check_uvicorn(config: uvicorn.Config) -> None:
    """Raises StackError where uvicorn is not as this module expects it."""
    made: dict[str, Any] = {"config": config, "server_state": ServerState(), "app_state": {}, "_loop": asyncio.get_running_loop()}
    for protocol, names in ((H11Protocol(**made), _HTTP_NAMES), (WebSocketsSansIOProtocol(**made), _WEBSOCKET_NAMES)):
        if missing := [name for name in names if not hasattr(protocol, name)]:
            raise StackError(
                f"uvicorn {uvicorn.__version__} is not the version that this server was made for: its {type(protocol).__name__} "
                f"has no {', '.join(missing)}. Install the version that server/requirements.txt names."
            )


class _GuardedHttp(H11Protocol):
    """A connection that carries requests, one after the other, until it becomes a websocket or ends."""

    open_connections: Connections
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self.open_connections.open(transport, address):
            self._watch()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self.open_connections.close(self.transport)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._end_with(b"400 Bad Request", msg)

    def _watch(self) -> None:
        """Begin or end the wait for a header, by what has come."""
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._cancel_deadline()
            self.open_connections.mark(self.transport, "busy")
        elif self._is_first or self.conn.trailing_data[0]:
            self.open_connections.mark(self.transport, "half-open")
            if self._deadline is None:
                self._deadline = self.loop.call_later(HEADER_TIMEOUT, self._give_up)
        else:
            self._cancel_deadline()
            self.open_connections.mark(self.transport, "idle")

    @property
    def _is_first(self) -> bool:
        return self.scope is None

    def _give_up(self) -> None:
        self._deadline = None
        if self.conn.trailing_data[0]:
            self._end_with(b"408 Request Timeout", f"The header of the request did not come within {HEADER_TIMEOUT:g} s.")
        else:
            self.transport.close()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_with(self, status: bytes, text: str) -> None:
        """Answer what is no request, and close."""
        if not self.transport.is_closing():
            body = text.encode()
            headers = (
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *SAFE_HEADERS,
            )
            lines = [b"HTTP/1.1 " + status, *(name + b": " + value for name, value in headers), b"", body]
            self.transport.write(b"\r\n".join(lines))
            self.transport.close()


class _GuardedWebSocket(WebSocketsSansIOProtocol):
    """A connection that has become a websocket."""

    open_connections: Connections

    def connection_lost(self, exc: Exception | None) -> None:
        self.open_connections.close(self.transport)
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # or uvicorn 0.54 takes every refusal for an error, and logs it
