"""How far a client reaches within Hypha: its own workspace and the public one. Nobody lists who else is here.

Hypha 0.21 lists public services of all workspaces, whose names are those of their users, to everybody who asks.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import hypha.queue
from hypha.core import UserInfo, UserPermission
from hypha.core.workspace import WorkspaceManager

from bioengine_server.service.caller import OWN_USER

Method = Callable[..., Awaitable[Any]]

_PUBLIC = "public"


def confine_clients() -> None:
    """Have every workspace manager that Hypha makes from now on look no further for a client."""
    for name, wrap in (
        ("list_services", _listing),
        ("get_service_info", _finding),
        ("get_workspace_info", _describing),
        ("create_workspace", _making),
    ):
        method = getattr(WorkspaceManager, name)
        setattr(WorkspaceManager, name, functools.wraps(method)(wrap(method)))
    hypha.queue.create_queue_service = _protected(hypha.queue.create_queue_service)


def _making(method: Method) -> Method:
    """Each client has its workspace. Whoever could make another's, before its first visit, would be its owner."""

    async def create_workspace(self: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        if not _is_own_user(context):
            raise PermissionError("Clients make no workspaces here: each has one of its own.")
        return await method(self, *args, context=context, **kwargs)

    return create_workspace


def _listing(method: Method) -> Method:
    async def list_services(self: Any, query: Any = None, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        own = context["ws"]
        workspace = _workspace_of(query, own)
        if _is_own_user(context) or workspace in (own, _PUBLIC):
            return await method(self, query, *args, context=context, **kwargs)
        if workspace != "*":
            raise PermissionError(f"Services are listed of your own workspace and of '{_PUBLIC}', not of {workspace[:80]!r}.")
        found = []
        for reached in dict.fromkeys((own, _PUBLIC)):
            query_there = {**query, "workspace": reached} if isinstance(query, dict) else _moved(query, reached)
            found += await method(self, query_there, *args, context=context, **kwargs)
        return found

    return list_services


def _workspace_of(query: Any, own: str) -> str:
    """The workspace that a query is about, as Hypha reads it."""
    if isinstance(query, dict):
        return str(query.get("workspace", own))
    if not isinstance(query, str):
        return own
    return query.split("/")[0] if "/" in query else own if ":" in query else query


def _moved(query: str, workspace: str) -> str:
    """A query of all workspaces as one of `workspace`."""
    return workspace + query.removeprefix("*")


def _finding(method: Method) -> Method:
    async def get_service_info(self: Any, service_id: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        workspace = service_id.split("/")[0] if isinstance(service_id, str) and "/" in service_id else ""
        if "*" in workspace and not _is_own_user(context):
            raise KeyError(f"Service not found: {service_id}. Name its workspace in full.")
        return await method(self, service_id, *args, context=context, **kwargs)

    return get_service_info


def _describing(method: Method) -> Method:
    async def get_workspace_info(self: Any, workspace: Any = None, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        asked = str(workspace or context["ws"])
        user = UserInfo.from_context(context)
        if not _is_own_user(context) and asked != _PUBLIC and not user.check_permission(asked, UserPermission.read):
            raise PermissionError(f"The workspace {asked[:80]!r} is not yours.")
        return await method(self, workspace, *args, context=context, **kwargs)

    return get_workspace_info


def _is_own_user(context: Any) -> bool:
    return bool(UserInfo.from_context(context).id == OWN_USER)


def _protected(create: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """A service of Hypha's own for those alone who may read the public workspace's protected ones."""

    def create_protected(store: Any) -> dict[str, Any]:
        service = create(store)
        return {**service, "config": {**service["config"], "visibility": "protected"}}

    return create_protected
