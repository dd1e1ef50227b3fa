"""What is not in the table of addresses is answered with 404 before any route sees it, and a wrong method with 405.

Where a token is needed, it is asked for first: the method is looked at behind (`route_table`).

Apps, artifacts, S3, MCP, proxies, listings of workspaces, HTTP-RPC and the API's own pages of Hypha are for other set-ups than
this one, and are closed.
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
            app: everything.
            table: what there is.
            most: bytes that are read of a request which is refused.
        """
        self._app = app
        self._table = table
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = None if scope["type"] == "lifespan" else self._table.find(scope)
        if scope["type"] == "lifespan" or (entry is not None and self._passes(entry, scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
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
