"""Authentication middleware: rejects clients without a valid token where one is required.

HTTP             401 with the reason
hypha-rpc        the token is in its first message; the reason is sent and the connection closed, also if the token becomes
                 invalid
imjoy-rpc        is checked in the gateway, with the same `Authenticator`
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from bioengine_contract.errors import BioEngineError
from hypha.core import UserPermission
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bioengine_server.access.errors import AccessDenied, NotLetIn, WorkspaceDenied
from bioengine_server.http.body import Rest
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.route_table import RouteTable
from bioengine_server.hypha.authenticator import Authenticator, bearer, is_legacy, stranger
from bioengine_server.hypha.tokens import is_name
from bioengine_server.log_once import Once

logger = logging.getLogger(__name__)
_once = Once()

_WEBSOCKET = "/ws"
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1
_MAX_FIRST = 20_000  # characters of a first message, with its token
_MAX_REASON = 120  # bytes of a close frame's reason


class AuthenticationMiddleware:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, table: RouteTable) -> None:
        self._app = app
        self._authenticator = authenticator
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] == _WEBSOCKET and not is_legacy(scope):
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        entry = self._table.find(scope)
        if not (entry is not None and entry.is_open) and self._authenticator.needs_token(scope):
            try:
                self._authenticator.admit(scope, bearer(headers))
            except BioEngineError as error:
                self._authenticator.access.refusals.tell(error, stranger(scope))
                await Rest(receive).drain(headers, self._authenticator.access.largest)
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection of a hypha-rpc client. If it is closed here, Hypha is told that the client has disconnected."""
        is_first, closed = True, False
        closing: set[asyncio.Future[None]] = set()

        def close(error: BioEngineError) -> None:
            nonlocal closed
            closed = True
            closing.add(asyncio.ensure_future(_close(send, error)))

        async def receive_checked() -> Message:
            nonlocal is_first
            event = await receive()
            if is_first and event["type"] == "websocket.receive":
                is_first = False
                try:
                    first = _FirstMessage.read(event)
                    user = self._authenticator.admit(scope, first.token)
                    first.check_workspace(user)
                except BioEngineError as error:
                    if not self._authenticator.access.refusals.tell(error, stranger(scope)) and _once.allows(str(error)):
                        logger.info("Refused a client: %s", error)
                    reason = NotLetIn() if isinstance(error, AccessDenied) else error
                    await _tell(send, reason)
                    close(reason)
                else:
                    life.enter_context(self._authenticator.connected(user, close))
            return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION} if closed else event

        async def send_while_open(event: Message) -> None:
            if not closed:
                await send(event)

        with contextlib.ExitStack() as life:
            try:
                await self._app(scope, receive_checked, send_while_open)
            finally:
                if closing:
                    await asyncio.wait(closing)


async def turn_away(send: Send, error: BioEngineError) -> None:
    """Send a hypha-rpc client, whose websocket has just been accepted, the reason for its refusal, and close."""
    await _tell(send, error)
    await _close(send, error)


@dataclass(frozen=True)
class _FirstMessage:
    """The first message of a hypha-rpc client, which identifies it, parsed as Hypha does."""

    workspace: str | None
    token: str | None

    @classmethod
    def read(cls, event: Message) -> _FirstMessage:
        """Parse the message. Raises AccessDenied, NotLetIn."""
        text = event.get("text") or ""
        try:
            said = json.loads(text) if len(text) <= _MAX_FIRST else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict) or not is_name(said.get("client_id")):
            raise NotLetIn
        workspace, token = said.get("workspace"), said.get("reconnection_token") or said.get("token")
        if workspace is not None and not is_name(workspace):
            raise NotLetIn
        if token is not None and not isinstance(token, str):
            raise AccessDenied
        return cls(workspace, token)

    def check_workspace(self, user: Any) -> None:
        """Check the workspace, because Hypha would create any workspace that is named. Raises WorkspaceDenied."""
        if not self.workspace or (user is not None and user.scope.current_workspace):
            return  # no workspace, or that of a token, which Hypha itself checks
        if user is None or not user.check_permission(self.workspace, UserPermission.read):
            raise WorkspaceDenied(self.workspace)


async def _tell(send: Send, error: BioEngineError) -> None:
    with contextlib.suppress(RuntimeError):  # the client has gone
        await send({"type": "websocket.send", "text": json.dumps({"type": "error", "message": str(error)})})


async def _close(send: Send, error: Exception) -> None:
    reason = str(error).encode()[:_MAX_REASON].decode(errors="ignore")
    with contextlib.suppress(RuntimeError):  # the client has gone
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": reason})
