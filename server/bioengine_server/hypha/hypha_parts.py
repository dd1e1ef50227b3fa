"""Inner names of Hypha: all that this server changes of it or reaches into, in one place, and known to be what they were."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import hypha.core.auth
import hypha.core.store
import hypha.core.workspace
import hypha.http
import hypha.queue
import hypha.websocket
from fastapi import FastAPI
from hypha.core import RedisEventBus, RedisRPCConnection, UserInfo
from hypha.core.store import RedisStore
from hypha.websocket import AuthenticationError, WebsocketServer

from bioengine_server.library import LibraryChanged, require

Method = Callable[..., Awaitable[Any]]

_VERSION = "0.21.137"
_Manager = hypha.core.workspace.WorkspaceManager
_PARTS = {
    "auth._parse_token": (hypha.core.auth._parse_token, "53ba2208751e"),
    "auth.generate_jwt_scope": (hypha.core.auth.generate_jwt_scope, "97c9b3303770"),
    "auth.set_parse_token_function": (hypha.core.auth.set_parse_token_function, "99b29ebc4127"),
    "auth.set_jwt_secret": (hypha.core.auth.set_jwt_secret, "09d6d5c8bd88"),
    "store.create_login_service": (hypha.core.store.create_login_service, "7c66f79aa1e1"),
    "queue.create_queue_service": (hypha.queue.create_queue_service, "95d1513565fd"),
    "RedisStore.get_workspace_interface": (RedisStore.get_workspace_interface, "094fb995552c"),
    "RedisEventBus.is_local_client": (RedisEventBus.is_local_client, "4f6286115373"),
    "RedisEventBus.is_recently_disconnected": (RedisEventBus.is_recently_disconnected, "d846f985ddda"),
    "RedisRPCConnection.__init__": (RedisRPCConnection.__init__, "a667f61efff1"),
    "RedisRPCConnection.emit_message": (RedisRPCConnection.emit_message, "aa06dc496824"),
    "WebsocketServer": (WebsocketServer, "439da87212c5"),
    "WorkspaceManager._create_rpc": (_Manager._create_rpc, "afa0e532ddf2"),
    "WorkspaceManager.create_service": (_Manager.create_service, "073d85b4d840"),
    "WorkspaceManager.register_service": (_Manager.register_service, "a5c7f1050933"),
    "WorkspaceManager.get_service": (_Manager.get_service, "8e8297fbf27c"),
    "WorkspaceManager.get_service_info": (_Manager.get_service_info, "dc350eae2624"),
    "WorkspaceManager.list_services": (_Manager.list_services, "c4764dc528eb"),
    "WorkspaceManager.delete_client": (_Manager.delete_client, "0831c2a089f9"),
    "WorkspaceManager.generate_token": (_Manager.generate_token, "e8ea54f6817f"),
    "WorkspaceManager.subscribe": (_Manager.subscribe, "9c0db88f0da6"),
    "WorkspaceManager.ping_client": (_Manager.ping_client, "02e19da950a8"),
}


def require_parts() -> None:
    """Raises LibraryChanged where Hypha is not the one that this module knows."""
    require("hypha", _VERSION, _PARTS)


def drop_rate_limit(app: FastAPI) -> None:
    """Take out Hypha's limit of requests by address.

    It believes X-Forwarded-For, from anybody: whoever sends that header drains the limit of others, evades its own, and fills
    memory with names. Behind a proxy or on one machine it holds for all clients together. Ours counts requests by token.
    """
    kept = [item for item in app.user_middleware if item.cls is not hypha.http.HTTPRateLimitMiddleware]
    if len(kept) == len(app.user_middleware):
        raise LibraryChanged("hypha", _VERSION, _VERSION, ["http.HTTPRateLimitMiddleware"])
    app.user_middleware = kept


def know_who_is_there() -> None:
    """Have a call of a client that is not connected fail at once, whenever it left.

    Hypha remembers for two minutes who was here, since others may be at another server of the same Redis; here is but one.
    """

    def is_gone(self: RedisEventBus, workspace: str, client_id: str) -> bool:
        return not self.is_local_client(workspace, client_id)

    RedisEventBus.is_recently_disconnected = is_gone


def keep_first_client(is_own: Callable[[str], bool]) -> None:
    """Have a second client of one id be refused, and nothing else.

    Hypha takes the refusal for a failure of its own, and cleans up: by ending the first client's services and connection. It does
    not look at all where a client comes again with a token for that id, which whoever is admin of a workspace can make.

    Args:
        is_own: whether an end, `<workspace>/<client id>`, is in this process, such as those of imjoy-rpc's clients.
    """
    check, authenticate = WebsocketServer.check_client, WebsocketServer.authenticate_user

    async def check_client(self: WebsocketServer, client_id: str, workspace: str, user: UserInfo) -> None:
        if is_own(f"{workspace}/{client_id}"):
            raise _taken(workspace, client_id)
        try:
            await check(self, client_id, workspace, user)
        except RuntimeError as error:
            raise AuthenticationError(str(error)) from error  # which it answers with the reason

    async def authenticate_user(
        self: WebsocketServer, token: str | None, reconnection_token: str | None, client_id: str, workspace: str | None
    ) -> tuple[UserInfo, str | None]:
        user, workspace = await authenticate(self, token, reconnection_token, client_id, workspace)
        if reconnection_token and (is_own(f"{workspace}/{client_id}") or _is_of_another(f"{workspace}/{client_id}", user)):
            raise _taken(workspace, client_id)
        return user, workspace

    WebsocketServer.check_client = check_client
    WebsocketServer.authenticate_user = authenticate_user


def _is_of_another(id: str, user: UserInfo) -> bool:
    """Whether a client is connected, and another user's."""
    there = RedisRPCConnection._connections.get(id)
    return there is not None and there._user_info["id"] != user.id


def _taken(workspace: str | None, client_id: str) -> BaseException:
    error: BaseException = AuthenticationError(f"Client already exists and is active: {workspace}/{client_id}")
    return error


def is_connected(store: RedisStore, id: str) -> bool:
    """Whether a client or an end of this process, `<workspace>/<client id>`, is connected now."""
    workspace, _, client = id.partition("/")
    return bool(store.get_event_bus().is_local_client(workspace, client))


def use_rpc(end: type) -> None:
    """Have Hypha's own ends of RPC be of this class."""
    for module in (hypha.core.store, hypha.core.workspace):
        module.RPC = end


def use_login(create: Callable[[Any], dict[str, Any]]) -> None:
    """Have Hypha register this service in place of its own login."""
    hypha.core.store.create_login_service = create


def wrap_manager(name: str, wrap: Callable[[Any], Any]) -> None:
    """Have every workspace manager's method replaced by `wrap(method)`."""
    method = getattr(_Manager, name)
    setattr(_Manager, name, functools.wraps(method)(wrap(method)))


def wrap_queue(wrap: Callable[[Callable[[Any], dict[str, Any]]], Callable[[Any], dict[str, Any]]]) -> None:
    """Have Hypha's queue service made by `wrap` of what makes it."""
    hypha.queue.create_queue_service = wrap(hypha.queue.create_queue_service)


def wrap_scope(wrap: Callable[[Callable[[Any], str]], Callable[[Any], str]]) -> None:
    """Have the scope in a token written by `wrap` of what writes it."""
    hypha.core.auth.generate_jwt_scope = wrap(hypha.core.auth.generate_jwt_scope)


def hide_version() -> None:
    """Have Hypha tell no client its version, which says which holes it has. The key stays, for clients that show it."""
    for module in (hypha.core.store, hypha.websocket):
        module.__version__ = ""


def hide_prints() -> None:
    """Have Hypha's store print nothing: at each normal end it says that one of its tasks has ended."""
    hypha.core.store.print = lambda *_: None  # type: ignore[attr-defined]


def use_secret(secret: str) -> None:
    """Sign and verify tokens with a secret from now on."""
    hypha.core.auth.set_jwt_secret(secret)


async def use_verifier(user_of: Callable[[Any], UserInfo]) -> None:
    """Have Hypha ask this function about every token."""
    await hypha.core.auth.set_parse_token_function(user_of)


def parse_token(token: Any) -> UserInfo:
    """The user in a token that is signed with the secret; raises whatever Hypha and its library do."""
    return hypha.core.auth._parse_token(token)


def manager_of(store: RedisStore) -> Any:
    """A store's own workspace manager."""
    return store._workspace_manager
