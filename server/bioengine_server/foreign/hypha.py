"""Hypha's private names, and all that this server replaces in it. The rules that clients meet are in `bioengine_server.hypha`."""

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
from hypha.websocket import WebsocketServer

from bioengine_server.library import LibraryChanged, require

Method = Callable[..., Awaitable[Any]]

VERSION = "0.21.137"
_Manager = hypha.core.workspace.WorkspaceManager
PARTS = {
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


def check() -> None:
    """Raises LibraryChanged where Hypha is not the one that this module knows."""
    require("hypha", VERSION, PARTS)


def drop_rate_limit(app: FastAPI) -> None:
    """Take out Hypha's limit of requests by address.

    It believes X-Forwarded-For, from anybody: whoever sends that header drains the limit of others, evades its own, and fills
    memory with names. Behind a proxy or on one machine it holds for all clients together. Ours counts requests by token.
    """
    limit: Any = hypha.http.HTTPRateLimitMiddleware
    kept = [item for item in app.user_middleware if item.cls is not limit]
    if len(kept) == len(app.user_middleware):
        raise LibraryChanged("hypha", VERSION, "its http.HTTPRateLimitMiddleware is not in use any more")
    app.user_middleware = kept


def know_who_is_there() -> None:
    """Have a call of a client that is not connected fail at once, whenever it left.

    Hypha remembers for two minutes who was here, since others may be at another server of the same Redis; here is but one.
    """

    def is_gone(self: RedisEventBus, workspace: str, client_id: str) -> bool:
        return not self.is_local_client(workspace, client_id)

    RedisEventBus.is_recently_disconnected = is_gone


def user_of_connected(id: str) -> str | None:
    """The id of the user whose client, `<workspace>/<client id>`, is connected; None where none is."""
    there = RedisRPCConnection._connections.get(id)
    return None if there is None else str(there._user_info["id"])


def is_connected(store: RedisStore, id: str) -> bool:
    """Whether a client or an end of this process, `<workspace>/<client id>`, is connected now."""
    workspace, _, client = id.partition("/")
    return bool(store.get_event_bus().is_local_client(workspace, client))


def use_rpc(end: type) -> None:
    """Have Hypha's own ends of RPC be of this class."""
    hypha.core.store.RPC = hypha.core.workspace.RPC = end


def use_login(create: Callable[[Any], dict[str, Any]]) -> None:
    """Have Hypha register this service in place of its own login."""
    hypha.core.store.create_login_service = create


def wrap_manager(name: str, wrap: Callable[[Any], Any]) -> None:
    """Have every workspace manager's method replaced by `wrap(method)`."""
    _wrap(_Manager, name, wrap)


def wrap_websockets(name: str, wrap: Callable[[Any], Any]) -> None:
    """Have the method of what ends clients' websockets replaced by `wrap(method)`."""
    _wrap(WebsocketServer, name, wrap)


def _wrap(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
    method = getattr(owner, name)
    setattr(owner, name, functools.wraps(method)(wrap(method)))


def wrap_queue(wrap: Callable[[Callable[[Any], dict[str, Any]]], Callable[[Any], dict[str, Any]]]) -> None:
    """Have Hypha's queue service made by `wrap` of what makes it."""
    hypha.queue.create_queue_service = wrap(hypha.queue.create_queue_service)


def wrap_scope(wrap: Callable[[Callable[[Any], str]], Callable[[Any], str]]) -> None:
    """Have the scope in a token written by `wrap` of what writes it."""
    hypha.core.auth.generate_jwt_scope = wrap(hypha.core.auth.generate_jwt_scope)


def hide_version() -> None:
    """Have Hypha tell no client its version, which says which holes it has. The key stays, for clients that show it."""
    hypha.core.store.__version__ = hypha.websocket.__version__ = ""


def hide_prints() -> None:
    """Have Hypha's store print nothing: at each normal end it says that one of its tasks has ended."""
    hypha.core.store.print = lambda *_: None


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
