"""Frames of websockets, looked at before anything takes them: what is not one ends its connection, with the reason.

Both client generations send MessagePack of a map that says where to, and, of most messages, of a second map after it.
"""

from __future__ import annotations

import logging

import msgpack
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

_PATH = "/ws"
_UNSUPPORTED_DATA = 1003  # RFC 6455, 7.4.1


class CheckedFrames:
    """ASGI middleware that closes a client's websocket on the first binary frame that is not a message."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or scope["path"] != _PATH:
            await self._app(scope, receive, send)
            return

        async def checked() -> Message:
            event = await receive()
            frame = event.get("bytes") if event["type"] == "websocket.receive" else None
            problem = None if frame is None else problem_of(frame)
            if problem is None:
                return event
            logger.warning("A client sent a frame that %s; closing its connection", problem)
            await send({"type": "websocket.close", "code": _UNSUPPORTED_DATA, "reason": f"The frame {problem}."[:120]})
            return {"type": "websocket.disconnect", "code": _UNSUPPORTED_DATA}

        await self._app(scope, checked, send)


def problem_of(frame: bytes) -> str | None:
    """What is wrong with a frame, None if nothing is. Its data is skipped, not unpacked."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(frame), 1))
    unpacker.feed(frame)
    try:
        main = unpacker.unpack()
        if not isinstance(main, dict) or not isinstance(main.get("to"), str) or not isinstance(main.get("type"), str):
            return "does not say where to, and what it is"
        if unpacker.tell() < len(frame):
            unpacker.skip()
        return None if unpacker.tell() == len(frame) else "has more than two parts"
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        return f"is not MessagePack ({str(error) or type(error).__name__})"
