"""The services that one legacy client offers. They are registered with Hypha and for other legacy clients while it is connected.

imjoy-rpc offers services in two ways: by `register_service` of the manager, and by `export(api)`, which keeps the service
`default` in the client and announces it with `update_client_info`. In both, the client keeps the functions, and is asked for
them by the service's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from bioengine_server.gateway.local import LocalServices
from bioengine_server.gateway.rpc import LegacyRPC
from bioengine_server.gateway.wrap import in_name_of_callers, parts_of, plain
from bioengine_server.hypha.isolation import MAX_SERVICE
from bioengine_server.hypha.message_memory import kept_size
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_BUILT_IN = "built-in"
_EXPORTED = "default"

_PATIENCE = 10.0  # seconds that a client may take to describe a service
_MAX = 200  # services in one announcement; Hypha accepts 100 of a client
_MAX_TOGETHER = 10 * MAX_SERVICE  # characters that are kept for all services of a client
_MAX_WITHDRAWN = 1000  # the newest services, whose ids are remembered


class OwnServices:
    """The services that a client offers now."""

    def __init__(
        self, rpc: LegacyRPC, hypha: Any, local: LocalServices, name: str, is_known: Callable[[], Awaitable[bool]]
    ) -> None:
        """
        Args:
            rpc: the RPC endpoint of the connection to the client.
            hypha: Hypha's interface to the client's workspace, in the client's name.
            local: the services that legacy clients call directly.
            name: the client's name, `<workspace>/<client id>`.
            is_known: whether Hypha knows the client; Hypha silently drops services of unknown clients.
        """
        self._is_known = is_known
        self._rpc = rpc
        self._hypha = hypha
        self._local = local
        self._name = name
        self._offered: dict[str, tuple[Any, Any]] = {}  # by id: the service's parts, and its definition in Hypha
        self._sizes: dict[str, int] = {}  # the size of what is kept for each
        self._withdrawn: dict[str, None] = {}  # in the order in which they were registered
        self._is_there = True

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._offered)

    async def register(self, service: dict[str, Any]) -> Any:
        """Tell the client to keep a service, and register it. Returns its definition in Hypha.

        As with old Hypha servers, the client keeps it, because the functions in this call's arguments are valid only during the
        call.
        """
        built_in = await self._of_client(_BUILT_IN)
        info = await built_in.register_service(service, True, False)
        id = str(info["id"]).rpartition(":")[2]
        self._withdrawn.pop(id, None)
        return await self._offer(id)

    async def announced(self, services: Any) -> None:
        """The client announces its services: new ones are registered, and those that it no longer has are removed."""
        if not isinstance(services, list):
            return
        named = [dict.get(service, "id") for service in services[:_MAX] if isinstance(service, dict)]
        said = [id.rpartition(":")[2] for id in named if isinstance(id, str)]
        ids = [id for id in said if not _is_taken(id) and (id not in self._withdrawn or id == _EXPORTED)]
        for id in [id for id in self._offered if id not in said]:
            await self.withdraw(id)
        for id in ids:
            await self._offer(id)

    async def restore(self, ids: Iterable[str]) -> None:
        """Register the services that the client offered before it lost its connection, if it still has them."""
        await asyncio.gather(*(self._restore(id) for id in ids))

    async def withdraw(self, id: str) -> None:
        """Remove a service. If it was never registered, nothing happens."""
        self._withdrawn.pop(id, None)
        self._withdrawn[id] = None
        if len(self._withdrawn) > _MAX_WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]
        if self._offered.pop(id, None) is None:
            return
        self._sizes.pop(id, None)
        self._local.remove(self._full(id))
        manager = await self._hypha.rpc.get_manager_service({"timeout": _PATIENCE})
        await manager.unregister_service(self._full(id))
        await self._hypha.rpc.unregister_service(id, False)

    def end(self) -> None:
        """The client has disconnected: its services can no longer be called directly."""
        self._is_there = False
        for id in self._offered:
            self._local.remove(self._full(id))

    async def _restore(self, id: str) -> None:
        try:
            await self._offer(id)
        except Exception as error:
            logger.debug("The service %s of %s could not be registered again: %s", id, self._name, error)

    async def _offer(self, id: str) -> Any:
        """Register a service. Raises ValueError for a reserved id, and for a service that is too large."""
        if _is_taken(id):
            raise ValueError(f"The id {shown(id)!r} is taken. Choose another for the service.")
        own = await self._of_client(id)
        definition = {key: value for key, value in dict(own).items() if not key.startswith("_")}
        has = parts_of(definition)
        if id in self._offered and self._offered[id][0] == has:
            return self._offered[id][1]
        before, size = self._sizes.get(id), self._checked_size(id, has)
        self._sizes[id] = size  # from now on, for those that are registered meanwhile
        definition["id"] = id
        definition["config"] = {**dict(own["config"]), "require_context": True}
        offered = in_name_of_callers(definition)
        # Hypha calls `setup` of a new service `default` here. The client may register more meanwhile, so no lock is held.
        try:
            await self._wait_until_known()
            info = plain(await self._hypha.register_service(offered, {"overwrite": True}))
        except BaseException:
            if before is not None:
                self._sizes[id] = before
            elif id not in self._offered:
                self._sizes.pop(id, None)
            if id not in self._offered:  # otherwise Hypha's endpoint would keep a service that nobody can find
                with contextlib.suppress(Exception):
                    await self._hypha.rpc.unregister_service(id, False)
            raise
        if self._is_there:
            self._offered[id] = (has, info)
            self._sizes[id] = size
            self._local.add(self._full(id), offered)
        return info

    def _checked_size(self, id: str, has: Any) -> int:
        """About how many characters are kept for a service. Raises ValueError."""
        size = kept_size(has)
        if size > MAX_SERVICE:
            raise ValueError(
                f"The service {shown(id)!r} has {size:,} characters besides its functions' code, but at most {MAX_SERVICE:,} are "
                "allowed. Return large data from a function."
            )
        together = sum(self._sizes.values()) - self._sizes.get(id, 0) + size
        if together > _MAX_TOGETHER:
            raise ValueError(
                f"The services of this client have {together:,} characters together, but at most {_MAX_TOGETHER:,} are allowed. "
                "Return large data from functions, or remove a service."
            )
        return size

    async def _wait_until_known(self) -> None:
        """Wait until Hypha knows the client: its endpoint registers itself in the background after it has connected."""
        async with asyncio.timeout(_PATIENCE):
            while not await self._is_known():
                await asyncio.sleep(0.02)

    async def _of_client(self, id: str) -> Any:
        return await self._rpc.get_remote_service(f"{self._name}:{id}", timeout=_PATIENCE)

    def _full(self, id: str) -> str:
        return f"{self._name}:{id}"


def _is_taken(id: str) -> bool:
    return id in ("", _BUILT_IN) or id.startswith("_")
