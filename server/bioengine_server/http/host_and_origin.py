"""The first check of every request and websocket: whether it is meant for this server, and whether its web page is allowed.

Host      must be one of the server's names, else 421: a page whose name was made to resolve here (DNS rebinding) sends its own
Origin    if present, must be allowed, else 403: other web pages cannot use the server, not even with "simple" requests, which
          browsers send without asking the server first
"""

from __future__ import annotations

import logging

from bioengine_contract.errors import BioEngineError
from starlette.types import ASGIApp, Receive, Scope, Send

from bioengine_server.gateway.route import refuse_page
from bioengine_server.http.authentication import turn_away
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.route_table import RouteTable
from bioengine_server.hypha.authenticator import is_legacy
from bioengine_server.log_once import Once
from bioengine_server.network.errors import CrossSiteRequest, HostNotAllowed, OriginNotAllowed
from bioengine_server.network.hosts import Hosts
from bioengine_server.network.origins import Origins

logger = logging.getLogger(__name__)

_WEBSOCKET = "/ws"
_OTHER_SITES = (b"cross-site", b"same-site")


class HostAndOrigin:
    """ASGI middleware; the outermost one, except for what changes responses."""

    def __init__(self, app: ASGIApp, hosts: Hosts, origins: Origins, table: RouteTable) -> None:
        """
        Args:
            app: the application with all routes.
            hosts: the names of the server.
            origins: the origins whose web pages may use it.
            table: says which routes links on any web page may lead to.
        """
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._table = table
        self._once = Once()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except (HostNotAllowed, OriginNotAllowed, CrossSiteRequest) as error:
            if self._once.allows(str(error)):
                logger.info("Refused: %s", error)
            if scope["type"] == "websocket":
                await _refuse_websocket(error, scope, receive, send)
            else:
                await refusal(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Check a request. Raises HostNotAllowed, OriginNotAllowed, CrossSiteRequest."""
        server = scope.get("server") or ("", 0)
        host = self._hosts.check(_values(scope, b"host"), str(server[0]))
        origins = _values(scope, b"origin")
        self._origins.check(origins, host)
        sites = _values(scope, b"sec-fetch-site")
        if not origins and any(site in _OTHER_SITES for site in sites) and not self._origins.takes_all:
            if not self._is_link_to_document(scope):
                raise CrossSiteRequest

    def _is_link_to_document(self, scope: Scope) -> bool:
        """Whether the user has followed a link, in a window of its own, to a route that changes nothing."""
        entry = self._table.find(scope)
        return (
            scope["type"] == "http"
            and scope["method"] in ("GET", "HEAD")
            and entry is not None
            and entry.is_document
            and _values(scope, b"sec-fetch-mode") == [b"navigate"]
            and _values(scope, b"sec-fetch-dest") == [b"document"]
        )


async def _refuse_websocket(error: BioEngineError, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse the handshake with 403; a page of another origin gets the reason in a form that its library understands.

    Browsers hide from web pages why a handshake failed, and imjoy-rpc 0.5.9 then waits forever. So the connection of such a
    page is accepted, and every call gets the reason as an error.
    """
    if isinstance(error, OriginNotAllowed) and scope["path"] == _WEBSOCKET:
        if is_legacy(scope):
            await refuse_page(error, scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await turn_away(send, error)
    elif "websocket.http.response" in scope.get("extensions", {}):
        answer = refusal(error)
        answer.status_code = 403  # imjoy-rpc gives up at this close code; at others, it retries forever
        await answer(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]
