"""The services that one legacy client offers, made known to Hypha and to the other legacy clients, for as long as it is there.

imjoy-rpc knows two ways: `register_service` of the manager, and `export(api)`, which keeps the service `default` in the client
and announces by `update_client_info` which services there are. Whatever the way, the client has the functions, and is asked for
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

_PATIENCE = 10.0  # seconds that a client may take to say what a service has
_MAX = 200  # services that one announcement may name; Hypha takes 100 of a client
_MAX_TOGETHER = 10 * MAX_SERVICE  # characters of what is kept of all services of a client
_MAX_WITHDRAWN = 1000  # whose ids are remembered, the newest


class OwnServices:
    """What a client offers at the moment."""

    def __init__(
        self, rpc: LegacyRPC, hypha: Any, local: LocalServices, name: str, is_known: Callable[[], Awaitable[bool]]
    ) -> None:
        """
        Args:
            rpc: the legacy end, which reaches the client.
            hypha: Hypha's interface to the client's workspace, as the client.
            local: services that legacy clients call directly.
            name: of the client, `<workspace>/<client id>`.
            is_known: whether Hypha knows the client; it drops services of others without a word.
        """
        self._is_known = is_known
        self._rpc = rpc
        self._hypha = hypha
        self._local = local
        self._name = name
        self._offered: dict[str, tuple[Any, Any]] = {}  # by id, what the service had, and what Hypha knows of it
        self._sizes: dict[str, int] = {}  # of what is kept of each
        self._withdrawn: dict[str, None] = {}  # in the order in which they were
        self._is_there = True

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._offered)

    async def register(self, service: dict[str, Any]) -> Any:
        """Have the client keep a service, and offer it. Returns what Hypha knows of it.

        The client keeps it, as with old Hypha servers: its functions in the arguments of this call end with the call.
        """
        built_in = await self._of_client(_BUILT_IN)
        info = await built_in.register_service(service, True, False)
        id = str(info["id"]).rpartition(":")[2]
        self._withdrawn.pop(id, None)
        return await self._offer(id)

    async def announced(self, services: Any) -> None:
        """The client says which services it has: new ones are offered, and those that it has no more are not."""
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
        """Offer what the client offered before it lost its connection, as far as it still has it."""
        await asyncio.gather(*(self._restore(id) for id in ids))

    async def withdraw(self, id: str) -> None:
        """Offer a service no more; one that was never offered does no harm."""
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
        """The client has gone: nobody calls its services directly any more."""
        self._is_there = False
        for id in self._offered:
            self._local.remove(self._full(id))

    async def _restore(self, id: str) -> None:
        try:
            await self._offer(id)
        except Exception as error:
            logger.debug("The service %s of %s is not offered again: %s", id, self._name, error)

    async def _offer(self, id: str) -> Any:
        """Raises ValueError for an id under which every client has a service, and for what is too large to be kept."""
        if _is_taken(id):
            raise ValueError(f"The id {shown(id)!r} is taken. Choose another for the service.")
        own = await self._of_client(id)
        definition = {key: value for key, value in dict(own).items() if not key.startswith("_")}
        has = parts_of(definition)
        if id in self._offered and self._offered[id][0] == has:
            return self._offered[id][1]
        size = self._checked_size(id, has)
        definition["id"] = id
        definition["config"] = {**dict(own["config"]), "require_context": True}
        offered = in_name_of_callers(definition)
        await self._wait_until_known()
        # Hypha calls `setup` of a new `default` in this: the client may offer more meanwhile, so nothing is locked.
        try:
            info = plain(await self._hypha.register_service(offered, {"overwrite": True}))
        except BaseException:
            if id not in self._offered:  # else Hypha's end would keep what nobody finds
                with contextlib.suppress(Exception):
                    await self._hypha.rpc.unregister_service(id, False)
            raise
        if self._is_there:
            self._offered[id] = (has, info)
            self._sizes[id] = size
            self._local.add(self._full(id), offered)
        return info

    def _checked_size(self, id: str, has: Any) -> int:
        """About how many characters are kept of a service. Raises ValueError."""
        size = kept_size(has)
        if size > MAX_SERVICE:
            raise ValueError(
                f"The service {shown(id)!r} has {size:,} characters beside its functions' code. Expected {MAX_SERVICE:,} at "
                "most. Have a function return what is large."
            )
        together = sum(self._sizes.values()) - self._sizes.get(id, 0) + size
        if together > _MAX_TOGETHER:
            raise ValueError(
                f"The services of this client have {together:,} characters together. Expected {_MAX_TOGETHER:,} at most. "
                "Have functions return what is large, or withdraw a service."
            )
        return size

    async def _wait_until_known(self) -> None:
        """Hypha's end makes itself known in the background, when it has connected."""
        async with asyncio.timeout(_PATIENCE):
            while not await self._is_known():
                await asyncio.sleep(0.02)

    async def _of_client(self, id: str) -> Any:
        return await self._rpc.get_remote_service(f"{self._name}:{id}", timeout=_PATIENCE)

    def _full(self, id: str) -> str:
        return f"{self._name}:{id}"


def _is_taken(id: str) -> bool:
    return id in ("", _BUILT_IN) or id.startswith("_")
