"""Hypha's private names, and all that this server replaces in it. The rules for clients are in `bioengine_server.hypha`."""

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
    "RedisStore.load_or_create_workspace": (RedisStore.load_or_create_workspace, "71b52bf5f181"),
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
    """Raises LibraryChanged if Hypha is not the version that was reviewed."""
    require("hypha", VERSION, PARTS)


def drop_rate_limit(app: FastAPI) -> None:
    """Remove Hypha's limit of requests for each address.

    It trusts the header X-Forwarded-For from any client, so a client that sends it can use up the limit of others, avoid its own,
    and fill the memory with addresses. Behind a proxy, or on one machine, all clients share one limit. This server counts
    requests by token instead.
    """
    limit: Any = hypha.http.HTTPRateLimitMiddleware
    kept = [item for item in app.user_middleware if item.cls is not limit]
    if len(kept) == len(app.user_middleware):
        raise LibraryChanged("hypha", VERSION, "it no longer uses its http.HTTPRateLimitMiddleware")
    app.user_middleware = kept


def know_who_is_there() -> None:
    """Make calls of a client that has disconnected fail at once.

    Hypha waits for two minutes after a client left, because it may be connected to another server of the same Redis; here is only
    one server.
    """

    def is_gone(self: RedisEventBus, workspace: str, client_id: str) -> bool:
        return not self.is_local_client(workspace, client_id)

    RedisEventBus.is_recently_disconnected = is_gone


def user_of_connected(id: str) -> str | None:
    """The id of the user whose client `<workspace>/<client id>` is connected; None if it is not connected."""
    there = RedisRPCConnection._connections.get(id)
    return None if there is None else str(there._user_info["id"])


def is_connected(store: RedisStore, id: str) -> bool:
    """Whether `<workspace>/<client id>`, a client or an endpoint of this process, is connected now."""
    workspace, _, client = id.partition("/")
    return bool(store.get_event_bus().is_local_client(workspace, client))


def use_rpc(end: type) -> None:
    """Make Hypha use this class for its own RPC endpoints."""
    hypha.core.store.RPC = hypha.core.workspace.RPC = end


def use_login(create: Callable[[Any], dict[str, Any]]) -> None:
    """Make Hypha register this service instead of its own login service."""
    hypha.core.store.create_login_service = create


def wrap_manager(name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace this method of every workspace manager by `wrap(method)`."""
    _wrap(_Manager, name, wrap)


def wrap_websockets(name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace this method of Hypha's websocket server by `wrap(method)`."""
    _wrap(WebsocketServer, name, wrap)


def wrap_store(name: str, wrap: Callable[[Any], Any]) -> None:
    """Replace this method of Hypha's store by `wrap(method)`."""
    _wrap(RedisStore, name, wrap)


def _wrap(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
    method = getattr(owner, name)
    setattr(owner, name, functools.wraps(method)(wrap(method)))


def wrap_queue(wrap: Callable[[Callable[[Any], dict[str, Any]]], Callable[[Any], dict[str, Any]]]) -> None:
    """Make Hypha create its queue service with `wrap(create)`."""
    hypha.queue.create_queue_service = wrap(hypha.queue.create_queue_service)


def wrap_scope(wrap: Callable[[Callable[[Any], str]], Callable[[Any], str]]) -> None:
    """Make Hypha write the scope of a token with `wrap(write)`."""
    hypha.core.auth.generate_jwt_scope = wrap(hypha.core.auth.generate_jwt_scope)


def hide_version() -> None:
    """Hide Hypha's version from clients, because it tells its security holes. The key stays, for clients that show it."""
    hypha.core.store.__version__ = hypha.websocket.__version__ = ""


def hide_prints() -> None:
    """Stop Hypha's store from printing: at each normal shutdown it would report that one of its tasks has ended."""
    hypha.core.store.print = lambda *_: None


def use_secret(secret: str) -> None:
    """Sign and verify tokens with a secret from now on."""
    hypha.core.auth.set_jwt_secret(secret)


async def use_verifier(user_of: Callable[[Any], UserInfo]) -> None:
    """Make Hypha verify every token with this function."""
    await hypha.core.auth.set_parse_token_function(user_of)


def parse_token(token: Any) -> UserInfo:
    """The user in a token that is signed with the secret; raises whatever Hypha and its library raise."""
    return hypha.core.auth._parse_token(token)


def manager_of(store: RedisStore) -> Any:
    """The workspace manager of a store."""
    return store._workspace_manager
