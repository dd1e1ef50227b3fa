"""The way in for imjoy-rpc clients: `/ws` with `client_id=` in the query string.

Hypha 0.20 and later close such connections and take hypha-rpc's only, which name themselves in a first message. This
route comes before Hypha's, matches only the former, and ends their protocol itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI
from hypha.core import UserInfo, UserPermission
from hypha.core.auth import create_scope, generate_anonymous_user, update_user_scope
from hypha.core.store import RedisStore
from starlette.routing import Match, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from bioengine_server.gateway.local import LocalServices
from bioengine_server.gateway.rpc import LegacyRPC
from bioengine_server.gateway.session import LegacySession, hypha_client

logger = logging.getLogger(__name__)

_PATH = "/ws"


class LegacyRoute(WebSocketRoute):
    """Matches legacy connections only."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "websocket" and b"client_id=" not in scope.get("query_string", b""):
            return Match.NONE, {}
        return super().matches(scope)


def add_legacy_gateway(app: FastAPI, store: Callable[[], RedisStore], local: LocalServices, max_message_size: int) -> None:
    """Let imjoy-rpc clients in on `/ws`.

    Args:
        app: Hypha's application.
        store: gives Hypha's store.
        local: services that are called directly.
        max_message_size: bytes of one message at most.
    """

    async def endpoint(websocket: WebSocket) -> None:
        await _serve(websocket, store(), local, max_message_size)

    app.router.routes.insert(0, LegacyRoute(_PATH, endpoint))


async def _serve(websocket: WebSocket, store: RedisStore, local: LocalServices, max_message_size: int) -> None:
    query = {key: values[-1] for key, values in parse_qs(websocket.url.query).items()}
    client_id = query["client_id"]
    try:
        if not client_id.replace("-", "").replace("_", "").isalnum() or len(client_id) > 128:
            raise PermissionError("the client_id is not one")
        user, workspace = await _authenticate(store, query)
    except Exception as error:
        # Before it is accepted, so that the client sees HTTP 403 and does not try again for ever.
        logger.info("Refused a legacy client: %s", error)
        await websocket.close(code=1008)
        return
    await websocket.accept()
    connection = _Connection(websocket)
    # Not silent: Hypha takes services of clients only that it knows.
    async with store.get_workspace_interface(user, workspace, client_id=hypha_client(client_id), silent=False) as hypha:
        rpc = LegacyRPC(connection, workspace, client_id, user.model_dump(mode="json"), max_message_size)
        LegacySession(rpc, hypha, store, local, user, workspace, client_id)
        try:
            await connection.listen()
        finally:
            await rpc.disconnect()


async def _authenticate(store: RedisStore, query: dict[str, str]) -> tuple[UserInfo, str]:
    """The user and the workspace of a connection. Raises whatever Hypha raises for a bad token or workspace."""
    token = query.get("reconnection_token") or query.get("token")
    if token:
        user = await store.parse_user_token(token)
        own = user.get_workspace()
        workspace = user.scope.current_workspace or query.get("workspace") or own
        if query.get("workspace") and user.check_permission(query["workspace"], UserPermission.read):
            workspace = query["workspace"]
    else:
        user = generate_anonymous_user()
        own = user.get_workspace()
        workspace = query.get("workspace") or own
        user.scope = create_scope(current_workspace=workspace, workspaces={own: UserPermission.admin})
    info = await store.load_or_create_workspace(user, workspace)
    user.scope = update_user_scope(user, info)
    if not user.check_permission(info.id, UserPermission.read):
        raise PermissionError(f"no permission for the workspace {workspace}")
    return user, str(info.id)


class _Connection:
    """A websocket as imjoy-rpc's RPC class wants it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._handle: Callable[[bytes], Any] | None = None

    def on_message(self, handler: Callable[[bytes], Any]) -> None:
        self._handle = handler

    async def emit_message(self, data: bytes) -> None:
        await self._websocket.send_bytes(data)

    async def listen(self) -> None:
        """Hand on frames until the client goes. A frame that is not one ends the connection."""
        assert self._handle is not None
        while True:
            try:
                data = await self._websocket.receive_bytes()
            except (WebSocketDisconnect, RuntimeError, KeyError):
                return
            try:
                self._handle(data)
            except Exception as error:
                logger.warning("A legacy client sent a frame that cannot be read: %s", error)
                await self._websocket.close(code=1003)
                return
            await asyncio.sleep(0)
