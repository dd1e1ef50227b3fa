"""Which addresses answer at all: a short list, judged by the bytes that came. All else that Hypha has is closed.

Apps, artifacts, S3, MCP, proxies, listings of workspaces, HTTP-RPC and the API's own pages are for other set-ups than this one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bioengine_contract.errors import BioEngineError
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from bioengine_server.http.body import Rest
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import NoSuchPage, WrongMethod
from bioengine_server.service.triton_client import SERVICE_ID

_WEBSOCKET = "/ws"

# Spelled like this and in no other way: what is encoded, doubled or dotted is none of them.
_READ = re.compile(rf"/health/(liveness|readiness)|/public/services/?|/public/services/{SERVICE_ID}")
_CALLED = re.compile(rf"/public/services/{SERVICE_ID}/(execute|get_config)")
_READING = ("GET", "HEAD", "OPTIONS")


class Surface:
    """ASGI middleware: what is not on the list is answered with 404, before any route sees it."""

    def __init__(self, app: ASGIApp, own: Sequence[BaseRoute], most: int) -> None:
        """
        Args:
            app: everything.
            own: routes of ours that judge every spelling of their paths themselves.
            most: bytes that are read of a request which is refused.
        """
        self._app = app
        self._own = own
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._is_only_read(scope):
            await self._refuse(WrongMethod(scope["method"], scope["path"], _READING), scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
        else:
            await self._refuse(NoSuchPage(scope["path"]), scope, receive, send)

    async def _refuse(self, error: BioEngineError, scope: Scope, receive: Receive, send: Send) -> None:
        await Rest(receive).drain(Headers(scope=scope), self._most)
        await refusal(error)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        raw = scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
        if scope["type"] == "websocket":
            return bool(raw == scope["path"] == _WEBSOCKET)
        path: str = scope["path"]
        if raw == path and (_CALLED.fullmatch(raw) or (_READ.fullmatch(raw) and scope["method"] in _READING)):
            return True
        return any(route.matches(scope)[0] is Match.FULL for route in self._own)

    def _is_only_read(self, scope: Scope) -> bool:
        """Whether there is something at this path, which takes no body."""
        return scope["path"] == scope.get("raw_path", b"").decode("latin-1") and bool(_READ.fullmatch(scope["path"]))
