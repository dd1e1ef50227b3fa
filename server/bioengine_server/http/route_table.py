"""The route table: which paths are served, with which methods, who may use them, and how their bodies are read.

Everything that depends on the path uses this table: which paths do not exist (`allowed_routes`), which need a token
(`authentication`), which a link on any web page may lead to (`host_and_origin`), how bodies are read (`body`), and the router.
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
"""All methods; the handler itself refuses those that it does not support."""

Handler = Callable[[Request], object]


@dataclass(frozen=True)
class Entry:
    """One path, or a family of paths. `path`: a regular expression for the whole path."""

    path: str
    methods: tuple[str, ...]
    handler: Handler | None = None
    """Returns a `Response`. None if Hypha answers."""
    is_open: bool = False
    """Whether no token is ever needed."""
    is_document: bool = False
    """Whether a link on any web page may lead there, because reading it changes nothing."""
    is_websocket: bool = False
    any_spelling: bool = False
    """Whether the entry also matches other spellings of the path (encoded, with double slashes, in capitals), so that they do not
    reach other routes: the handler checks the original bytes. Otherwise only this exact spelling matches."""
    is_encoded: bool = False
    """Whether parts of the path may be percent-encoded, such as file names."""

    def matches(self, scope: Scope) -> bool:
        """Whether a request is for this path, with any method."""
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
    """The routes of one server."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    def find(self, scope: Scope) -> Entry | None:
        """The entry for a request or websocket; None if there is none."""
        return next((entry for entry in self._entries if entry.matches(scope)), None)

    def routes(self) -> Iterator[Route]:
        """The routes for the application's router: those that are not answered by Hypha."""
        yield from (_TableRoute(self, entry, entry.handler) for entry in self._entries if entry.handler is not None)


class _TableRoute(Route):
    """An entry of the table as a Starlette route; it matches all methods, so that Hypha gets none of these requests."""

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
    """The path as it was sent, before it is decoded or normalised."""
    raw: bytes = scope.get("raw_path") or b""
    return raw.decode("latin-1").partition("?")[0]
