"""uvicorn's protocols, with time limits for the parts of a request, and a limit of connections.

uvicorn 0.54 waits forever for a header, for a websocket handshake, and for the rest of a body that nobody reads, on any number of
connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import h11

from bioengine_server.foreign import uvicorn
from bioengine_server.http.connections import Connections
from bioengine_server.http.security_headers import SAFE_HEADERS
from bioengine_server.log_once import OnceFilter

HEADER_TIMEOUT = 15.0
"""Seconds in which the header of a request has to arrive, from the connection or its first byte to its last."""

HANDSHAKE_TIMEOUT = 60.0
"""Seconds that the handshake of a websocket may take, including the server's own work for it."""

LINGER = 5.0
"""Seconds in which the rest of a body has to arrive, after the response."""

FLUSH_TIMEOUT = 60.0
"""Seconds in which a client has to read more of the response, when the connection is being closed."""

# Bytes that are parsed at once: few if h11 needs long for each, such as for a body in chunks of one byte.
_SLICE, _PLAIN_SLICE = 1 << 14, 1 << 16


def protocols(connections: Connections) -> dict[str, Any]:
    """Arguments of `uvicorn.Config` for HTTP and websocket protocols with time limits and a bound of connections.

    Args:
        connections: counts the open connections.

    Raises LibraryChanged.
    """
    uvicorn.check()
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(each, OnceFilter) for each in logger.filters):
        logger.addFilter(OnceFilter())
    shared = {"open_connections": connections}
    return {
        "http": type("LimitedHttp", (_LimitedHttp,), shared),
        "ws": type("LimitedWebSocket", (_LimitedWebSocket,), shared),
    }


def see_off(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Abort a connection that is being closed if its client no longer reads what was written."""
    left = transport.get_write_buffer_size()

    def look() -> None:
        if transport.get_write_buffer_size() == left:
            transport.abort()
        else:
            see_off(transport, loop)

    if left:
        loop.call_later(FLUSH_TIMEOUT, look)


def _plain_answer(status: bytes, text: str) -> bytes:
    body = text.encode()
    headers = (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *SAFE_HEADERS,
    )
    return b"\r\n".join([b"HTTP/1.1 " + status, *(name + b": " + value for name, value in headers), b"", body])


class _Flow(uvicorn.Flow):
    """Keeps reading paused while received data is still to be parsed, even if other code wants to resume it."""

    is_held = False

    def __init__(self, transport: asyncio.Transport, on_resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_resume = on_resume

    def hold(self) -> None:
        self.is_held = True
        self.transport.pause_reading()

    def release(self) -> None:
        self.is_held = False
        if not self.read_paused:
            self.transport.resume_reading()

    def resume_reading(self) -> None:
        was_paused = self.read_paused
        if self.is_held:
            self.read_paused = False
        else:
            super().resume_reading()
        if was_paused:
            self._on_resume()


class _LimitedHttp(uvicorn.H11Protocol):
    """A connection with requests, one after the other, until it becomes a websocket or ends."""

    open_connections: Connections
    flow: _Flow
    _deadline: asyncio.TimerHandle | None = None
    _unparsed: bytes = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._watch)
        address = self.client[0] if self.client else ""
        if self.open_connections.open(transport, address):
            self._watch()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._unparsed:
            self._unparsed += data
            self.flow.hold()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse a part of the data now, and the rest after other connections had their turn."""
        if self.transport.is_closing() or self._is_websocket:
            return
        if self.conn.their_state in (h11.MUST_CLOSE, h11.CLOSED):
            return  # after the last request of this client, as it has said itself, such as an empty line after a body
        if self.conn.their_state is h11.DONE:  # a further request, sent before the response to this one
            self._unparsed = data
            self.flow.hold()
            return
        length = _PLAIN_SLICE if self._is_plain_body else _SLICE
        self._unparsed = data[length:]
        super().data_received(data[:length])
        self._watch()
        if self._unparsed:
            self.flow.hold()
            self.loop.call_soon(self._parse_rest)

    def _parse_rest(self) -> None:
        if not self._unparsed:
            return
        data, self._unparsed = self._unparsed, b""
        self._parse(data)
        if not self._unparsed and not self.transport.is_closing():
            self.flow.release()

    @property
    def _is_plain_body(self) -> bool:
        """Whether a body of known length is expected, which h11 handles in pieces of any size."""
        return self.conn.their_state is h11.SEND_BODY and not any(name == b"transfer-encoding" for name, _ in self.headers)

    @property
    def _is_websocket(self) -> bool:
        return self.transport.get_protocol() is not self

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()
        if self._unparsed:
            self.loop.call_soon(self._parse_rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        self._cancel_deadline()
        self.open_connections.close(self.transport)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._end_with(b"400 Bad Request", msg)

    def _watch(self) -> None:
        """Start or stop the time limit for a header, or for a body that nobody reads, depending on what has arrived."""
        if self._is_websocket:
            self._cancel_deadline()
        elif self.transport.is_closing():
            self._cancel_deadline()
            see_off(self.transport, self.loop)
        elif self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            self.open_connections.mark(self.transport, "idle")
            if self._deadline is None:
                self._deadline = self.loop.call_later(LINGER, self._give_up)
        elif self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            self._cancel_deadline()
            if not self.open_connections.mark(self.transport, "uploading"):
                self.transport.abort()
        elif self.conn.their_state is not h11.IDLE:
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
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._end_with(b"408 Request Timeout", f"The header of the request did not arrive within {HEADER_TIMEOUT:g} s.")
        else:
            self.transport.close()
            see_off(self.transport, self.loop)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_with(self, status: bytes, text: str) -> None:
        """Answer data that is not a valid request, and close."""
        if not self.transport.is_closing():
            self.transport.write(_plain_answer(status, text))
            self.transport.close()
            see_off(self.transport, self.loop)


class _LimitedWebSocket(uvicorn.WebSocketsSansIOProtocol):
    """A connection that has become a websocket."""

    open_connections: Connections
    _deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HANDSHAKE_TIMEOUT, self.transport.abort)
        if not self.open_connections.mark(self.transport, "unauthenticated"):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        # The whole header arrives at once. uvicorn 0.54 does not answer if its parser refuses it.
        if not self.handshake_initiated and not self.transport.is_closing():
            text = "This is not a valid websocket handshake: its header is too large, or it has a body."
            self.transport.write(_plain_answer(b"400 Bad Request", text))
            self.transport.close()
            see_off(self.transport, self.loop)

    def send_receive_event_to_app(self) -> None:
        self.open_connections.mark(self.transport, "busy")
        super().send_receive_event_to_app()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self.open_connections.close(self.transport)
        super().connection_lost(exc)
        # The parser holds the last frame, which may be an image, and is in a reference cycle with its connection: without this,
        # the frame would stay in memory until the garbage collector runs.
        self.conn.parser.close()
        self.conn.reader.discard()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.handshake_complete:
            self._deadline.cancel()
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # otherwise uvicorn 0.54 treats every refusal as an error and logs it
