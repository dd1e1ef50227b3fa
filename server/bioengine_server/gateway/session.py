"""The workspace manager that a connected legacy client (imjoy-rpc 0.5) gets, and through it every service of Hypha."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any

from hypha.core import UserInfo
from hypha.core.auth import generate_auth_token
from hypha.core.store import RedisStore

from bioengine_server.gateway.clients import Client
from bioengine_server.gateway.local import LocalServices
from bioengine_server.gateway.newest import Newest
from bioengine_server.gateway.own_services import OwnServices
from bioengine_server.gateway.rpc import LegacyRPC
from bioengine_server.gateway.wrap import plain, unannotated
from bioengine_server.hypha.message_memory import kept_size
from bioengine_server.hypha.tokens import is_name

logger = logging.getLogger(__name__)

# As long as Hypha's own: a client finds its workspace again after the server was down for a day or two.
RECONNECTION_TOKEN_LIFETIME = 2 * 24 * 60 * 60  # seconds

_SERVICE_PREFIX = "remote-"

# Of the services that a client has found, the newest are kept; others are looked up again when it calls them.
_MAX_FOUND = 200
_MAX_FOUND_SIZE = 20_000_000  # bytes of all of them, without their functions
_MAX_REMEMBERED = 200  # services that a client gets back when it reconnects
_LEVELS = ("info", "warning", "error", "critical")

# Hypha's messages for a service that does not exist, or whose client has just disconnected.
_NOT_THERE = ("not found", "is not connected", "client disconnected")

# How long a reconnected client waits until its own services are registered again.
_RESTORING = 5.0  # seconds


class LegacySession:
    """One connected legacy client, with its own connection to Hypha in its name."""

    def __init__(
        self, rpc: LegacyRPC, hypha: Any, store: RedisStore, local: LocalServices, user: UserInfo, client: Client
    ) -> None:
        """
        Args:
            rpc: the RPC endpoint of the connection to the client.
            hypha: Hypha's interface to the client's workspace, in the name of the client's user.
            store: Hypha's store.
            local: services that are called directly.
            user: the client's user.
            client: its name, and the services that it offered before it lost its connection.
        """
        self._rpc = rpc
        self._hypha = hypha
        self._store = store
        self._local = local
        self._user = user
        self._client = client
        self._workspace = client.workspace
        self._client_id = client.client_id
        self._own_services = OwnServices(
            rpc, hypha, local, client.name, lambda: store.client_exists(client.client_id, client.workspace)
        )
        self._found = Newest(_MAX_FOUND, _MAX_FOUND_SIZE)
        rpc.on_unknown_service(self._offer_again)
        rpc.add_service(self._manager())
        self._restoring = asyncio.ensure_future(self._own_services.restore(client.services))

    def end(self) -> None:
        """The client has disconnected. Its services are remembered, because it may reconnect."""
        known = () if self._restoring.done() else self._client.services
        self._client.services = tuple(dict.fromkeys((*self._own_services.ids, *known)))[:_MAX_REMEMBERED]
        self._restoring.cancel()
        self._own_services.end()

    def _manager(self) -> dict[str, Any]:
        """The service `default`, with method names in the spelling of Python and of JavaScript."""
        methods = {
            method.__name__.removeprefix("_"): unannotated(method)
            for method in (
                self._get_service,
                self._list_services,
                self._list_clients,
                self._get_workspace_info,
                self._register_service,
                self._unregister_service,
                self._generate_token,
                self._get_connection_info,
                self._update_client_info,
                self._echo,
                self._log,
            )
        }
        methods |= {level: methods["log"] for level in _LEVELS}
        camel_case = {_camel_case(name): method for name, method in methods.items()}
        return {
            "id": "default",
            "name": "workspace manager",
            "type": "workspace-manager",
            "config": {
                "require_context": False,
                "visibility": "protected",
                "workspace": self._workspace,
                "user": self._user_data(),
            },
            **methods,
            **camel_case,
        }

    async def _get_service(self, query: Any, *_: Any, **__: Any) -> dict[str, Any] | None:
        """A service; None if it does not exist, as legacy clients expect."""
        service_id = dict.get(query, "id") if isinstance(query, dict) else query
        if not isinstance(service_id, str) or not service_id:
            raise TypeError(f"get_service takes a service id such as 'triton-client', not {query!r}.")
        return await self._offer(service_id)

    async def _offer(self, service_id: str) -> dict[str, Any] | None:
        """Offer a service of Hypha to the legacy client, under an id by which it can be found again."""
        service = await self._find(service_id)
        if service is None and not self._restoring.done():
            await asyncio.wait([self._restoring], timeout=_RESTORING)
            service = await self._find(service_id)
        if (
            service is None and "/" in service_id and ":" not in service_id
        ):  # it may be the id of a client, which stands for the service that it exports
            service = await self._find(f"{service_id}:default")
        if service is None:
            return None
        context = {"user": self._user_data(), "ws": self._workspace, "from": self._client.name}
        offered = plain({**service, **self._local.methods(str(service["id"]), context)})
        offered["id"] = _SERVICE_PREFIX + base64.urlsafe_b64encode(service_id.encode()).decode().rstrip("=")
        offered["config"] = {**dict(offered.get("config") or {}), "visibility": "protected", "require_context": False}
        offered.pop("service_schema", None)
        added = dict(self._rpc.add_service(offered, overwrite=True))
        for id in self._found.keep(offered["id"], kept_size(offered)):
            self._rpc.drop_service(id)
        return added

    async def _find(self, service_id: str) -> Any:
        """A service of Hypha; of several with the same name any one, like old servers. None if there is none."""
        try:
            return await self._hypha.get_service(service_id, {"mode": "random"})
        except Exception as error:
            if isinstance(error, KeyError) or any(sign in str(error).lower() for sign in _NOT_THERE):
                return None
            raise

    async def _offer_again(self, offered_id: str) -> None:
        """Offer a service again whose methods the client got in an earlier connection."""
        if offered_id.startswith(_SERVICE_PREFIX):
            encoded = offered_id.removeprefix(_SERVICE_PREFIX)
            await self._offer(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())

    async def _list_services(self, query: Any = None, *_: Any, **__: Any) -> Any:
        return plain(await self._hypha.list_services(query))

    async def _list_clients(self, *_: Any, **__: Any) -> list[str]:
        """The ids of the workspace's clients, in the form that old servers returned."""
        return [str(client["id"]).rpartition("/")[2] for client in await self._hypha.list_clients()]

    async def _get_workspace_info(self, workspace: Any = None, *_: Any, **__: Any) -> Any:
        return plain(await self._hypha.get_workspace_info(workspace or self._workspace))

    async def _register_service(self, service: Any, *_: Any, **__: Any) -> Any:
        """Register a service of the client with Hypha."""
        return await self._own_services.register(dict(service))

    async def _unregister_service(self, service: Any, *_: Any, **__: Any) -> None:
        id = str(service if isinstance(service, str) else service["id"])
        owner, own_id = id.rpartition(":")[::2]
        if owner in ("", self._client_id, self._client.name) and own_id in self._own_services.ids:
            await self._own_services.withdraw(own_id)
        else:  # Hypha raises an error that says why
            await self._hypha.unregister_service(id)

    async def _generate_token(self, *args: Any, **kwargs: Any) -> Any:
        return await self._hypha.generate_token(*plain(args), **plain(kwargs))

    async def _get_connection_info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {
            "workspace": self._workspace,
            "client_id": self._client_id,
            "user_info": self._user_data(),
            "reconnection_token": await generate_auth_token(self._bound_user(), RECONNECTION_TOKEN_LIFETIME),
            "reconnection_expires_in": RECONNECTION_TOKEN_LIFETIME,
        }

    async def _update_client_info(self, info: Any = None, *_: Any, **__: Any) -> None:
        """The client announces its own services, such as one that it has just exported."""
        if isinstance(info, dict):
            await self._own_services.announced(dict.get(info, "services"))

    async def _echo(self, value: Any = None, *_: Any, **__: Any) -> Any:
        return plain(value)

    async def _log(self, text: Any = "", *_: Any, **__: Any) -> None:
        logger.debug("%s: %s", self._client_id, str(text)[:1000])

    def _bound_user(self) -> UserInfo:
        """The user for the token with which this client, and no other program, may reconnect under its id."""
        if not is_name(
            self._client_id
        ):  # no token can contain this id: the client can only reconnect when its previous connection has ended
            return self._user
        assert self._user.scope is not None  # the client was admitted before
        return self._user.model_copy(update={"scope": self._user.scope.model_copy(update={"client_id": self._client_id})})

    def _user_data(self) -> dict[str, Any]:
        return {
            "id": self._user.id,
            "is_anonymous": self._user.is_anonymous,
            "email": self._user.email,
            "roles": self._user.roles,
        }


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
