"""The one table of addresses: which paths answer, to which methods, to whom, and what becomes of a body.

Whoever must know an address asks the table: which do not exist (`allowed_routes`), who needs a token (`authentication`), what a
link on a stranger's page may lead to (`host_and_origin`), whose bodies are read first (`body`), and the application's router.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import WrongMethod

GET = ("GET", "HEAD")
ANY = ()
"""Every method; the handler refuses those that it does not take, in its own way."""

Handler = Callable[[Request], object]


@dataclass(frozen=True)
class Entry:
    """One address, or a family of them. `path`: a regular expression for all of the path."""

    path: str
    methods: tuple[str, ...]
    handler: Handler | None = None
    """Gives a `Response`. None: Hypha answers."""
    is_open: bool = False
    """Whether no token is ever needed."""
    is_document: bool = False
    """Whether a link on a page of anybody may lead there, since to look at it changes nothing."""
    is_websocket: bool = False
    any_spelling: bool = False
    """Whether the path is also taken encoded, doubled or in capitals, so that nothing slips past to other routes: the handler
    judges by the bytes that came. Else the path is spelled as it is here and in no other way."""
    is_encoded: bool = False
    """Whether the path has parts that come encoded, such as names of files."""

    def matches(self, scope: Scope) -> bool:
        """Whether a request is for this address, with whatever method."""
        if self.is_websocket != (scope["type"] == "websocket"):
            return False
        path: str = scope["path"]
        if self.any_spelling:
            return re.match(self.path, path, re.IGNORECASE) is not None
        raw = raw_path(scope)
        return (self.is_encoded or raw == path) and re.fullmatch(self.path, raw) is not None

    def takes(self, method: str) -> bool:
        return not self.methods or method in self.methods


class RouteTable:
    """The addresses of one server."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    def find(self, scope: Scope) -> Entry | None:
        """The address that a request or websocket is for."""
        return next((entry for entry in self._entries if entry.matches(scope)), None)

    def routes(self) -> Iterator[Route]:
        """What the application's router gets: the addresses that are answered here."""
        yield from (_TableRoute(self, entry, entry.handler) for entry in self._entries if entry.handler is not None)


class _TableRoute(Route):
    """One of the table's addresses, for Starlette; requests of every method come here, so that Hypha gets none of them."""

    def __init__(self, table: RouteTable, entry: Entry, handler: Handler) -> None:
        super().__init__("/{path:path}", handler, include_in_schema=False)
        self.methods = set(entry.methods) or None
        self.path = entry.path
        self._table = table
        self._entry = entry
        self._handler = handler

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and self._table.find(scope) is self._entry:
            return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._entry.takes(scope["method"]):
            await self.app(scope, receive, send)
        else:
            await refusal(WrongMethod(scope["method"], scope["path"], self._entry.methods))(scope, receive, send)


def raw_path(scope: Scope) -> str:
    """The path as it came, before anything is decoded or made shorter."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("latin-1").partition("?")[0]
