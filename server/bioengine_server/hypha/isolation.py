"""Isolate clients from each other within Hypha: a client can use only its own workspace and the public one.

Hypha 0.21 lists the public services of all workspaces, whose names contain those of their users, for every client.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypha.core import UserInfo, UserPermission

from bioengine_server.access.caller import OWN_USER
from bioengine_server.foreign.hypha import Method, wrap_manager, wrap_queue
from bioengine_server.hypha.message_memory import kept_size
from bioengine_server.hypha.rpc_limits import client_left
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_PUBLIC = "public"

# The methods of the manager that programs and the client libraries call. All others are for Hypha itself or for admins.
_OPEN = frozenset(
    "echo log get_service get_service_info list_services register_service unregister_service generate_token ping subscribe "
    "unsubscribe create_workspace get_workspace_info list_workspaces list_clients get_summary".split()
)

# Hypha stores services under keys that are made of these names, and finds them by patterns.
_SERVICE_TYPE = re.compile(r"[A-Za-z0-9_.#/ -]{1,100}")
_SERVICE_ID = re.compile(r"[A-Za-z0-9_.|~/-]{1,300}:[A-Za-z0-9_.|~ -]{1,200}")
_APP_ID = re.compile(r"\*|[A-Za-z0-9_.-]{1,100}")

# Hypha searches its keys with ids and queries as patterns, and a malicious pattern may take forever. So each part must be a plain
# name, or just `*`, and the workspace must be a name.
_WORD = r"[A-Za-z0-9_.|~#-]{1,200}"
_PART = rf"(\*|{_WORD}( {_WORD}){{0,9}})"
_ASKED_ID = re.compile(rf"~|({_WORD}/)?(({_PART}:)?{_PART}|~)(@{_PART})?")
_QUERY = re.compile(rf"({_PART}/)?({_PART}:)?{_PART}(@{_PART})?")
_QUERY_KEYS = frozenset("workspace id type client_id service_id visibility app_id name".split())

_CLIENT_ID = re.compile(r"[A-Za-z0-9_.|~-]{1,200}")
MAX_SERVICE = 300_000
"""The largest number of characters that are kept for one service, including the descriptions of its methods."""

_TIMEOUTS = ("timeout", "select_timeout")
_MAX_WAIT = 60.0  # seconds that the manager waits for a client
_MAX_WAITING = 100  # calls of one client for which the manager may wait at once

# How to choose one of several services with the same name. Hypha's other modes call a function of each service, in Hypha's name.
_MODES = re.compile(r"random|first|last|exact|min_load|native(:[a-z_]+)?|select:(min|max|first_success):get_load")

# The client libraries need these events to clean up after disconnected clients; programs use those about services.
_EVENTS = frozenset(
    "service_added service_removed service_updated client_connected client_disconnected client_updated workspace_loaded "
    "workspace_deleted workspace_changed workspace_ready workspace_unloaded workspace_status_changed".split()
)


def confine_clients() -> None:
    """Isolate the clients of every workspace manager that Hypha creates from now on."""
    for name, wrap in (
        ("list_services", _listing),
        ("get_service_info", _finding),
        ("get_workspace_info", _describing),
        ("create_workspace", _making),
        ("register_service", _offering),
        ("unregister_service", _withdrawing),
        ("ping_client", _pinging),
        ("get_service", _getting),
        ("generate_token", _granting),
        ("subscribe", _listening),
        ("log", _logging),
        ("create_service", _opening),
        ("delete_client", _leaving),
    ):
        wrap_manager(name, wrap)
    wrap_queue(_protected)


def _making(method: Method) -> Method:
    """Refuse to create workspaces: a client could become the owner of another's workspace by creating it first."""

    async def create_workspace(self: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        if not _is_own_user(context):
            raise PermissionError("Clients cannot create workspaces here: each client has its own.")
        return await method(self, *args, context=context, **kwargs)

    return create_workspace


def _opening(method: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Close the manager's methods that clients do not need."""

    def create_service(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        service = method(self, *args, **kwargs)
        closed = [name for name, value in service.items() if callable(value) and name not in _OPEN]
        return {**service, **{name: _closed(name, service[name]) for name in closed}}

    return create_service


def _closed(name: str, method: Method) -> Method:
    @functools.wraps(method)
    async def call(*args: Any, context: Any = None, **kwargs: Any) -> Any:
        if not _is_own_user(context):
            raise PermissionError(f"Permission denied: this server does not offer '{name}' to clients. Leave the call out.")
        return await method(*args, context=context, **kwargs)

    return call


def _offering(method: Method) -> Method:
    """Check type and id of a service: they must not contain Hypha's separators or patterns."""

    async def register_service(self: Any, service: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        if not _is_own_user(context):
            _check_service(service, str(context["from"]).rpartition("/")[2])
        return await method(self, service, *args, context=context, **kwargs)

    return _waiting(register_service)


def _withdrawing(method: Method) -> Method:
    """Check who removes a service: Hypha would let any client remove any public service."""

    async def unregister_service(self: Any, service_id: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        if not _is_own_user(context):
            # The client's own service, if others in its workspace offer one with the same name.
            if isinstance(service_id, str) and ":" not in service_id and "/" not in service_id:
                service_id = f"{context['from']}:{service_id}"
            found = await self.get_service_info(service_id, {"mode": "exact"}, context=context)
            if not str(found.id).startswith(f"{context['ws']}/"):
                raise PermissionError(f"Permission denied for the service {shown(service_id)!r}: it is not yours.")
        return await method(self, service_id, *args, context=context, **kwargs)

    return unregister_service


def _leaving(method: Method) -> Method:
    """Make calls that wait for a disconnected client fail now."""

    async def delete_client(self: Any, client_id: str, workspace: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(self, client_id, workspace, *args, **kwargs)
        finally:
            await client_left(f"{workspace}/{client_id}")

    return delete_client


def _granting(method: Method) -> Method:
    """Check the workspace first: Hypha would create any workspace that is named, before it checks whose it is."""

    async def generate_token(self: Any, config: Any = None, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        workspace = _part(config, "workspace")
        if workspace and workspace != context["ws"] and not _is_own_user(context):
            if not isinstance(workspace, str) or not UserInfo.from_context(context).get_permission(workspace):
                raise PermissionError(f"Permission denied for the workspace {shown(workspace)!r}: it is not yours.")
        return await method(self, config, *args, context=context, **kwargs)

    return generate_token


def _waiting(method: Method) -> Method:
    """Limit, for each client, how many calls the manager works on while it waits for other clients."""
    waiting: Counter[str] = Counter()

    async def call(self: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        sender = str(context["from"])
        if waiting[sender] >= _MAX_WAITING and not _is_own_user(context):
            raise RuntimeError(
                f"{_MAX_WAITING} calls of this client are waiting already, which is the limit. Wait for one of them first."
            )
        waiting[sender] += 1
        try:
            return await method(self, *args, context=context, **kwargs)
        finally:
            waiting[sender] -= 1
            if not waiting[sender]:
                del waiting[sender]

    return call


def _pinging(method: Method) -> Method:
    """Check whom a client pings: Hypha pings in its own name, and calls services of clients that do not answer."""

    async def ping_client(self: Any, client_id: Any, timeout: Any = 5, context: Any = None, **kwargs: Any) -> Any:
        own = str(context["ws"])
        workspace, _, client = str(client_id).rpartition("/")
        if not _is_own_user(context) and (workspace or own) != own:
            return f"Failed to ping client: Permission denied for workspace {shown(workspace)!r}"
        if not _CLIENT_ID.fullmatch(client):
            raise ValueError(f"{shown(client_id)!r} is not the id of a client.")
        return await method(self, client_id, _seconds(timeout), context=context, **kwargs)

    return _waiting(ping_client)


def _getting(method: Method) -> Method:
    """Limit how long the manager waits for a client's service, whatever timeout the caller gives."""

    async def get_service(self: Any, service_id: Any, config: Any = None, context: Any = None, **kwargs: Any) -> Any:
        if isinstance(config, dict):
            config = {**config, **{name: _seconds(config[name]) for name in _TIMEOUTS if _part(config, name) is not None}}
        elif config is not None:
            given = {name: _seconds(getattr(config, name)) for name in _TIMEOUTS if getattr(config, name, None) is not None}
            config = config.model_copy(update=given)
        return await method(self, service_id, config, context=context, **kwargs)

    return _waiting(get_service)


def _seconds(given: Any) -> float:
    """Raises ValueError."""
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0:
        raise ValueError(f"The timeout is {shown(given)!r}. Expected seconds, up to {_MAX_WAIT:.0f}.")
    return min(float(given), _MAX_WAIT)


def _part(value: Any, name: str) -> Any:
    """An item of a map or of an object of Hypha's. Not with the map's `get`: hypha-rpc's maps offer their items as attributes."""
    return dict.get(value, name) if isinstance(value, dict) else getattr(value, name, None)


def _check_service(service: Any, client: str) -> None:
    """Raises ValueError for a service that this client may not offer.

    Args:
        service: the service as it was sent, or as Hypha has read it.
        client: the id of the client that offers it.
    """
    size = kept_size(dict(service) if isinstance(service, dict) else service.model_dump())
    if size > MAX_SERVICE:
        raise ValueError(f"The service's description has {size:,} characters. Expected {MAX_SERVICE:,} at most.")
    for name, pattern, needed in (("type", _SERVICE_TYPE, False), ("id", _SERVICE_ID, True), ("app_id", _APP_ID, False)):
        value = _part(service, name)
        if value is None and not needed:
            continue
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"The service's {name} is {shown(value)!r}. Expected letters, digits, '-', '_' and '.'.")
    # Hypha uses this part to count a client's services, and to remove them when the client disconnects.
    id = _part(service, "id")
    if id.rpartition("/")[2].partition(":")[0] != client:
        raise ValueError(f"The service's id is {shown(id)!r}. A client offers its own services, such as '{client}:name'.")


def _listening(method: Method) -> Method:
    """Let clients subscribe only to the known events of their own workspace."""

    async def subscribe(self: Any, event_type: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        events = event_type if isinstance(event_type, list) else [event_type]
        if not all(isinstance(event, str) for event in events) or not set(events) <= _EVENTS:
            raise ValueError(f"There is no such event. Use one of {', '.join(sorted(_EVENTS))}.")
        return await method(self, event_type, *args, context=context, **kwargs)

    return subscribe


def _logging(_: Method) -> Method:
    """Write clients' log messages to the log. Hypha would store them in a database, without any limit."""

    async def log(self: Any, msg: Any = "", context: Any = None) -> None:
        logger.debug("%s: %s", str((context or {}).get("from"))[:100], repr(msg)[:1000])

    return log


def _listing(method: Method) -> Method:
    async def list_services(self: Any, query: Any = None, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        if not _is_own_user(context):
            _check_query(query)
        own = context["ws"]
        workspace = _workspace_of(query, own)
        if _is_own_user(context) or workspace in (own, _PUBLIC):
            return await method(self, query, *args, context=context, **kwargs)
        if workspace != "*":
            raise PermissionError(
                f"You can list the services of your own workspace and of '{_PUBLIC}', but not of {shown(workspace)!r}."
            )
        found = []
        for reached in dict.fromkeys((own, _PUBLIC)):
            query_there = {**query, "workspace": reached} if isinstance(query, dict) else _moved(query, reached)
            found += await method(self, query_there, *args, context=context, **kwargs)
        return found

    return list_services


def _check_query(query: Any) -> None:
    """Raises ValueError."""
    values = dict(query) if isinstance(query, dict) else {"id": query}
    for key, value in values.items():
        if value is None or isinstance(value, bool):
            continue
        if key not in _QUERY_KEYS or not isinstance(value, str) or not _QUERY.fullmatch(value):
            raise ValueError(f"Services can be listed by plain names, or '*' for all, but not by {shown(key)} {shown(value)!r}.")


def _workspace_of(query: Any, own: str) -> str:
    """The workspace that Hypha would search for a query."""
    if isinstance(query, dict):
        return str(dict.get(query, "workspace", own))
    if not isinstance(query, str):
        return own
    return query.split("/")[0] if "/" in query else own if ":" in query else query


def _moved(query: str, workspace: str) -> str:
    """A query of all workspaces, turned into a query of `workspace`."""
    return workspace + query.removeprefix("*")


def _finding(method: Method) -> Method:
    async def get_service_info(self: Any, service_id: Any, config: Any = None, context: Any = None, **kwargs: Any) -> Any:
        workspace = service_id.split("/")[0] if isinstance(service_id, str) and "/" in service_id else ""
        if not isinstance(service_id, str) or not _ASKED_ID.fullmatch(service_id):
            raise KeyError(f"Service not found: {shown(service_id)}. Give its exact name, such as 'workspace/client:service'.")
        mode = _part(config, "mode")
        if mode is not None and not (isinstance(mode, str) and _MODES.fullmatch(mode)):
            raise ValueError(f"The mode is {shown(mode)!r}. Expected random, first, last, exact or min_load.")
        if workspace == "*" and not _is_own_user(context):
            raise KeyError(f"Service not found: {service_id}. Name its workspace in full.")
        try:
            return await method(self, service_id, config, context=context, **kwargs)
        except AssertionError as error:  # Hypha's error would contain the keys of all services that were found
            raise KeyError(
                f"There are several services {service_id}. Name its client as well: 'workspace/client:service'."
            ) from error

    return get_service_info


def _describing(method: Method) -> Method:
    async def get_workspace_info(self: Any, workspace: Any = None, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        asked = str(workspace or context["ws"])
        user = UserInfo.from_context(context)
        if not _is_own_user(context) and asked != _PUBLIC and not user.check_permission(asked, UserPermission.read):
            raise PermissionError(f"The workspace {shown(asked)!r} is not yours.")
        return await method(self, workspace, *args, context=context, **kwargs)

    return get_workspace_info


def _is_own_user(context: Any) -> bool:
    return bool(UserInfo.from_context(context).id == OWN_USER)


def _protected(create: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Protect a service of Hypha's own: only clients that may read the public workspace's protected services can use it."""

    def create_protected(store: Any) -> dict[str, Any]:
        service = create(store)
        return {**service, "config": {**service["config"], "visibility": "protected"}}

    return create_protected
