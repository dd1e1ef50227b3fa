"""What a legacy client finds when it is connected: a workspace manager, and through it every service of Hypha."""

from __future__ import annotations

import base64
import logging
from typing import Any

from hypha.core import UserInfo
from hypha.core.auth import generate_auth_token
from hypha.core.store import RedisStore

from bioengine_server.gateway.local import LocalServices
from bioengine_server.gateway.rpc import LegacyRPC
from bioengine_server.gateway.wrap import in_name_of_callers, plain, unannotated
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

# As long as Hypha's own: a client whose server was away for a day or two finds its workspace again.
RECONNECTION_TOKEN_LIFETIME = 2 * 24 * 60 * 60  # seconds

_SERVICE_PREFIX = "remote-"


class LegacySession:
    """One connected legacy client, with a connection of its own to Hypha in its own name."""

    def __init__(
        self, rpc: LegacyRPC, hypha: Any, store: RedisStore, local: LocalServices, user: UserInfo, workspace: str, client_id: str
    ) -> None:
        """
        Args:
            rpc: the legacy end.
            hypha: Hypha's interface to the client's workspace, as the client's user.
            store: Hypha's store.
            local: services that are called directly.
            user, workspace, client_id: who the client is.
        """
        self._rpc = rpc
        self._hypha = hypha
        self._store = store
        self._local = local
        self._user = user
        self._workspace = workspace
        self._client_id = client_id
        rpc.on_unknown_service(self._offer_again)
        rpc.add_service(self._manager())

    def _manager(self) -> dict[str, Any]:
        """The service `default`, in the spellings of Python and of JavaScript."""
        methods = {
            method.__name__.removeprefix("_"): unannotated(method)
            for method in (
                self._get_service,
                self._list_services,
                self._register_service,
                self._unregister_service,
                self._generate_token,
                self._get_connection_info,
                self._update_client_info,
                self._echo,
                self._log,
            )
        }
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
        """A service, or None where there is none, as legacy clients expect."""
        service_id = dict.get(query, "id") if isinstance(query, dict) else query
        if not isinstance(service_id, str) or not service_id:
            raise TypeError(f"get_service takes a service id such as 'triton-client', not {query!r}.")
        return await self._offer(service_id)

    async def _offer(self, service_id: str) -> dict[str, Any] | None:
        """Have a service of Hypha offered on the legacy end under an id that leads back to it."""
        try:
            service = await self._hypha.get_service(service_id)
        except Exception as error:
            if "not found" in str(error).lower() or isinstance(error, KeyError):
                return None
            raise
        context = {"user": self._user_data(), "ws": self._workspace, "from": f"{self._workspace}/{hypha_client(self._client_id)}"}
        offered = plain({**service, **self._local.methods(str(service["id"]), context)})
        offered["id"] = _SERVICE_PREFIX + base64.urlsafe_b64encode(service_id.encode()).decode().rstrip("=")
        offered["config"] = {**dict(offered.get("config") or {}), "visibility": "protected", "require_context": False}
        offered.pop("service_schema", None)
        return dict(self._rpc.add_service(offered, overwrite=True))

    async def _offer_again(self, offered_id: str) -> None:
        """Offer a service whose methods the client knows from an earlier connection."""
        if offered_id.startswith(_SERVICE_PREFIX):
            encoded = offered_id.removeprefix(_SERVICE_PREFIX)
            await self._offer(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())

    async def _list_services(self, query: Any = None, *_: Any, **__: Any) -> Any:
        return plain(await self._hypha.list_services(query))

    async def _register_service(self, service: Any, *_: Any, **__: Any) -> Any:
        """Have a service of the client's own offered by Hypha.

        The client keeps it, as with old Hypha servers: its functions in the arguments of this call end with the call.
        """
        built_in = await self._own_service("built-in")
        info = await built_in.register_service(dict(service), True, False)
        id = str(info["id"]).rpartition(":")[2]
        if id == "built-in" or id.startswith("_"):
            raise ValueError(f"The id {shown(id)!r} is taken. Choose another for the service.")
        own = await self._own_service(id)
        definition = {key: value for key, value in dict(own).items() if not key.startswith("_")}
        definition["id"] = id
        definition["config"] = {**dict(own["config"]), "require_context": True}
        return plain(await self._hypha.register_service(in_name_of_callers(definition), {"overwrite": True}))

    async def _own_service(self, service_id: str) -> Any:
        return await self._rpc.get_remote_service(f"{self._workspace}/{self._client_id}:{service_id}")

    async def _unregister_service(self, service: Any, *_: Any, **__: Any) -> None:
        await self._hypha.unregister_service(service if isinstance(service, str) else service["id"])

    async def _generate_token(self, *args: Any, **kwargs: Any) -> Any:
        return await self._hypha.generate_token(*plain(args), **plain(kwargs))

    async def _get_connection_info(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {
            "workspace": self._workspace,
            "client_id": self._client_id,
            "user_info": self._user_data(),
            "reconnection_token": await generate_auth_token(self._user, RECONNECTION_TOKEN_LIFETIME),
            "reconnection_expires_in": RECONNECTION_TOKEN_LIFETIME,
        }

    async def _update_client_info(self, *_: Any, **__: Any) -> None:
        """Legacy clients tell which services they have of their own; nobody else can reach those."""

    async def _echo(self, value: Any = None, *_: Any, **__: Any) -> Any:
        return plain(value)

    async def _log(self, text: Any = "", *_: Any, **__: Any) -> None:
        logger.debug("%s: %s", self._client_id, str(text)[:1000])

    def _user_data(self) -> dict[str, Any]:
        return {
            "id": self._user.id,
            "is_anonymous": self._user.is_anonymous,
            "email": self._user.email,
            "roles": self._user.roles,
        }


def hypha_client(client_id: str) -> str:
    """The client id in Hypha of a legacy client, whose own one is free for it to use over hypha-rpc, too."""
    return f"legacy-{client_id}"


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
