"""Check the frames of hypha-rpc clients before Hypha gets them.

    websocket -> checked, with a new main part (hypha.envelope) -> Hypha -> the receiver

A frame that is not a message closes its connection with the reason; a message that is not allowed is answered to its sender with
the reason. Chunked messages between two clients are joined here too, because their receivers trust what such a message contains.
Frames of imjoy-rpc clients are checked in the gateway.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from bioengine_contract.errors import BioEngineError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bioengine_server.access.caller import Caller
from bioengine_server.hypha import envelope
from bioengine_server.hypha.authenticator import is_legacy
from bioengine_server.hypha.relay import Relay, Relays
from bioengine_server.limits import SizeLimit
from bioengine_server.untrusted import quoted

logger = logging.getLogger(__name__)

_PATH = "/ws"
_UNSUPPORTED_DATA, _POLICY_VIOLATION = 1003, 1008  # RFC 6455, 7.4.1
_MAX_TEXT = 1000  # characters; the same as Hypha's limit
_TEXTS = ("ping", "refresh_token")


class CheckedFrames:
    """ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        limit_of: Callable[[Caller], SizeLimit],
        is_own: Callable[[str], bool],
        is_connected: Callable[[str], bool],
    ) -> None:
        """
        Args:
            app: Hypha's application.
            limit_of: returns the size limit of a client's unfinished messages to others.
            is_own: whether the endpoint `<workspace>/<client id>` is in this process, and checks chunked messages itself.
            is_connected: whether an endpoint with that name exists at all.
        """
        self._app = app
        self._limit_of = limit_of
        self._is_connected = is_connected
        self._relays = Relays(is_own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket" or scope["path"] != _PATH or is_legacy(scope):
            await self._app(scope, receive, send)
            return
        connection = _Connection(self._relays, self._limit_of, self._is_connected, receive, send)
        try:
            await self._app(scope, connection.receive, connection.send)
        finally:
            connection.end()


class _Connection:
    """The connection of one client, whose name is the one that Hypha sends it in `connection_info`."""

    def __init__(
        self,
        relays: Relays,
        limit_of: Callable[[Caller], SizeLimit],
        is_connected: Callable[[str], bool],
        receive: Receive,
        send: Send,
    ) -> None:
        self._relays = relays
        self._limit_of = limit_of
        self._is_connected = is_connected
        self._receive = receive
        self._send = send
        self._sender = ""
        self._relay: Relay | None = None
        self._texts = 0

    async def send(self, event: Message) -> None:
        text = event.get("text") if event["type"] == "websocket.send" and not self._sender else None
        if text:
            self._learn(json.loads(text))
        await self._send(event)

    async def receive(self) -> Message:
        if self._sender and self._relay is None:
            reason = "The client_id is taken: another program is connected with it. Choose another."
            await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})
            return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}
        while True:
            event = await self._receive()
            if event["type"] != "websocket.receive":
                return event
            frame = event.get("bytes")
            try:
                if frame is None:
                    self._check_text(event.get("text") or "")
                    return event
                return {"type": "websocket.receive", "bytes": self._checked(frame)}
            except envelope.NotAMessage as error:
                logger.warning("%s sent a frame that is not a message; closing its connection", self._sender or "A client")
                await self._send({"type": "websocket.close", "code": _UNSUPPORTED_DATA, "reason": _reason(error)})
                return {"type": "websocket.disconnect", "code": _UNSUPPORTED_DATA}
            except envelope.MessageRefused as error:
                logger.info("A message of %s was refused", self._sender)
                answer = envelope.refusal(error, self._sender, self._sender)
                await self._send({"type": "websocket.send", "bytes": answer})
                if (told := envelope.instead(error)) is not None:
                    return {"type": "websocket.receive", "bytes": told}

    def end(self) -> None:
        if self._relay is not None:
            self._relay.end()

    def _learn(self, info: Any) -> None:
        if isinstance(info, dict) and info.get("type") == "connection_info":
            self._sender = f"{info['workspace']}/{info['client_id']}"
            if self._relays.is_own(self._sender):
                return  # endpoints of this process, such as those of imjoy-rpc clients, check chunked messages themselves
            self._relay = self._relays.of(self._sender, self._limit_of(Caller.from_context({"user": info.get("user")})))

    def _checked(self, frame: bytes) -> bytes:
        if self._relay is None:
            raise envelope.NotAMessage("was sent before its sender has identified itself")
        message = envelope.checked(frame, self._sender)
        self._check_target(message)
        return self._relay.passed(message).to_frame()

    def _check_target(self, message: envelope.Message) -> None:
        """Refuse a call of a disconnected client at once. Hypha answers only callers in the same workspace."""
        to = str(message.main["to"])
        target = to if "/" in to else f"{self._sender.partition('/')[0]}/{to}"
        if "session" in message.main and not target.startswith("*/") and not self._is_connected(target):
            raise envelope.MessageRefused(
                f"it is to {quoted(target)}, which is not connected", "Look up its service again when it is back.", message.main
            )

    def _check_text(self, text: str) -> None:
        """Check a text message: only the first message, which identifies the client, and two kinds of ping are texts."""
        self._texts += 1
        if self._texts == 1:
            return
        try:
            said = json.loads(text[: _MAX_TEXT + 1])
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict) or said.get("type") not in _TEXTS:
            raise envelope.NotAMessage("is text, but not a ping")


def _reason(error: BioEngineError) -> str:
    return str(error).encode()[:120].decode(errors="ignore")
