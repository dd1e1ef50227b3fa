"""Register `triton-client` with the Hypha in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from hypha.core.store import RedisStore

from bioengine_server.service.triton_client import TritonClient

logger = logging.getLogger(__name__)

# The client id under which the server's own process offers the service.
_WORKSPACE, _CLIENT = "public", "bioengine"

# How often to check that the service is still registered: a lost one is to be registered again within five seconds. A busy
# machine answers late.
_LOCAL_INTERVAL = 1.0  # seconds
_LOCAL_TIMEOUT = 8.0  # seconds
_MAX_FAILURES = 3  # of Hypha's manager in a row


class Registration:
    """Registers one service through a Hypha API object, however that is connected."""

    def __init__(self, service: TritonClient) -> None:
        self._service = service

    async def register(self, api: Any) -> str:
        """Register the service. Returns its full id.

        Args:
            api: a connection to the workspace `public`, with the permission to write.
        """
        info = await api.register_service(self._service.definition(), {"overwrite": True})
        id = str(info["id"])
        logger.info("Registered %s", id)
        return id


class LocalRegistration:
    """Keeps a service registered with the Hypha in this process, and checks that Hypha's workspace manager still answers."""

    def __init__(
        self,
        store: RedisStore,
        registration: Registration,
        on_registered: Callable[[str], None],
        on_manager_lost: Callable[[], None],
    ) -> None:
        """
        Args:
            store: Hypha's store.
            registration: registers the service.
            on_registered: called with the service's full id after each registration.
            on_manager_lost: called once, when the manager no longer answers.
        """
        self._store = store
        self._registration = registration
        self._on_registered = on_registered
        self._on_manager_lost = on_manager_lost
        self._connection = contextlib.AsyncExitStack()
        self._id = ""

    async def register(self) -> None:
        """Register the service through a new connection."""
        await self._disconnect()
        api = await self._connection.enter_async_context(self._interface(_CLIENT))
        self._id = await self._registration.register(api)
        self._on_registered(self._id)

    async def watch(self) -> None:
        """Check service and manager until cancelled, or until the manager no longer answers."""
        manager_failures = 0
        try:
            async with self._interface("registration-check") as api:
                while True:
                    await asyncio.sleep(_LOCAL_INTERVAL)
                    if problem := await _problem(api.echo("still there")):
                        manager_failures += 1
                        logger.warning("Hypha's manager does not answer (%s)", problem)
                        if manager_failures >= _MAX_FAILURES:
                            self._on_manager_lost()
                            return
                        continue
                    manager_failures = 0
                    if self._id and (problem := self._unconnected() or await _problem(api.get_service(self._id))):
                        logger.warning("The service is no longer registered (%s), registering it again", problem)
                        with contextlib.suppress(Exception):  # it is tried again
                            async with asyncio.timeout(_LOCAL_TIMEOUT):
                                await self.register()
        finally:
            await self._disconnect()

    def _unconnected(self) -> str:
        """Why the connection cannot be asked: a call through a closed connection would only time out."""
        return "" if self._store.get_event_bus().is_local_client(_WORKSPACE, _CLIENT) else "its connection is gone"

    def _interface(self, client_id: str) -> Any:
        return self._store.get_workspace_interface(self._store.get_root_user(), _WORKSPACE, client_id=client_id, silent=True)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, contextlib.AsyncExitStack()
        try:
            async with asyncio.timeout(_LOCAL_TIMEOUT):
                await connection.aclose()
        except Exception as error:
            logger.debug("Disconnecting: %s", error)


async def _problem(call: Awaitable[Any]) -> str:
    """Why a call failed; empty if it succeeded."""
    try:
        async with asyncio.timeout(_LOCAL_TIMEOUT):
            await call
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""
