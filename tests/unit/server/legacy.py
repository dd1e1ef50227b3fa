"""One imjoy-rpc client and the server's end of its connection, in this process.

Both ends are real. Hypha is a stand-in that takes every service: what counts is what is kept before and after it has been asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from bioengine_server.gateway.clients import Client
from bioengine_server.gateway.local import LocalServices
from bioengine_server.gateway.rpc import MANAGER_ID, LegacyRPC
from bioengine_server.gateway.session import LegacySession
from bioengine_server.limits import SizeLimit
from hypha.core import UserInfo
from hypha.core.auth import create_scope
from imjoy_rpc.hypha.rpc import RPC

LIMIT = SizeLimit(10_000_000)


class Wire:
    """One end of a connection in this process."""

    other: Wire

    def on_message(self, handler: Callable[[bytes], Any]) -> None:
        self._handle = handler

    async def emit_message(self, frame: bytes) -> None:
        asyncio.get_running_loop().call_soon(self.other._handle, frame)

    async def disconnect(self, reason: Any = None) -> None:
        pass


class Hypha:
    """Takes every service, unless it is told not to, and finds any that is asked for."""

    def __init__(self) -> None:
        self.services: dict[str, Any] = {}
        self.refuses = False
        self.rpc = self

    async def register_service(self, service: Any, options: Any) -> Any:
        self.services[service["id"]] = service
        if self.refuses:
            raise RuntimeError("refused")
        return {"id": service["id"]}

    async def unregister_service(self, id: str, notify: bool = True) -> None:
        self.services.pop(id.rpartition(":")[2], None)

    async def get_manager_service(self, options: Any) -> Hypha:
        return SimpleNamespace(unregister_service=self._forgotten)  # type: ignore[return-value]

    async def get_service(self, id: str, options: Any) -> Any:
        async def call() -> str:
            return id

        return {"id": f"ws-x/other:{id}", "name": id, "config": {}, "call": call}

    async def _forgotten(self, id: str) -> None:
        pass


class Connection:
    def __init__(self, too_large: Callable[[Exception], object] = lambda error: None) -> None:
        here, there = Wire(), Wire()
        here.other, there.other = there, here
        self.hypha = Hypha()
        user = UserInfo(
            id="ada", is_anonymous=False, email=None, roles=[], scope=create_scope({"ws-x": "a"}, current_workspace="ws-x")
        )
        self.end = LegacyRPC(here, "ws-x", "client", user.model_dump(mode="json"), LIMIT, too_large)
        self.client = RPC(there, client_id="client", default_context={"connection_type": "websocket"}, method_timeout=10)
        store: Any = SimpleNamespace(client_exists=self._is_known)
        self.session = LegacySession(self.end, self.hypha, store, LocalServices(), user, Client("ws-x", "client", "ada", True))

    async def _is_known(self, client_id: str, workspace: str) -> bool:
        return True

    async def manager(self) -> Any:
        return await self.client.get_remote_service(f"{MANAGER_ID}:default")

    async def end_all(self) -> None:
        self.session.end()
        await self.end.disconnect()
