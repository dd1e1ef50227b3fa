"""Answer requests for paths that are not in the route table with 404, and wrong methods with 405, before any route sees them.

If a path needs a token, the token is checked first, and the method afterwards (`route_table`).

Hypha's routes for apps, artifacts, S3, MCP, proxies, lists of workspaces, HTTP-RPC and API pages are for other set-ups, and are
closed.
"""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bioengine_server.http.body import Rest
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import NoSuchPage, WrongMethod
from bioengine_server.http.route_table import Entry, RouteTable


class AllowedRoutes:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, table: RouteTable, most: int) -> None:
        """
        Args:
            app: the application with all routes.
            table: the allowed routes.
            most: how many bytes are read of a refused request.
        """
        self._app = app
        self._table = table
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = None if scope["type"] == "lifespan" else self._table.find(scope)
        if scope["type"] == "lifespan" or (entry is not None and self._passes(entry, scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # refused before the websocket is accepted: HTTP 403
        elif entry is not None:
            await self._refuse(WrongMethod(scope["method"], scope["path"], entry.methods), scope, receive, send)
        else:
            await self._refuse(NoSuchPage(scope["path"]), scope, receive, send)

    @staticmethod
    def _passes(entry: Entry, scope: Scope) -> bool:
        needs_token = not entry.is_open and entry.handler is not None
        return entry.is_websocket or needs_token or entry.takes(scope["method"])

    async def _refuse(self, error: BioEngineError, scope: Scope, receive: Receive, send: Send) -> None:
        await Rest(receive).drain(Headers(scope=scope), self._most)
        await refusal(error)(scope, receive, send)
