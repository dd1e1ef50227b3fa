"""`/models/<id>/<version>/files/<name>`: serve the files that show and test a stored model; the `rdf` contains their URLs.

`http.authentication` and `http.host_and_origin` check the client before. Only files that a description lists for display are
served, as data: a browser does not run them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

from bioengine_contract.errors import BioEngineError
from bioengine_contract.ids import NAME
from bioengine_contract.package_errors import PackageUnreadable
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from bioengine_server.http.callers import caller_of
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import NoParts, NoSuchPage
from bioengine_server.http.route_table import raw_path
from bioengine_server.http.stored_file import stored_file
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.store.errors import NotStored
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.shown_files import shown_files

_PATH = rf"/models/(?P<place>{NAME}/{NAME})/files/(?P<name>[^?#]{{1,4000}})"
_PICTURES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff",
}  # fmt: skip
_TEXTS = {".md": "text/markdown", ".txt": "text/plain", ".csv": "text/csv"}
_DATA = "application/octet-stream"  # as are files that a browser would run, HTML and SVG
_TENSOR = ".npy"


class ModelFiles:
    """Serves these files, for paths in their plain form only."""

    path = _PATH

    def __init__(self, authenticator: Authenticator, store: ModelStore) -> None:
        """
        Args:
            authenticator: identifies the caller.
            store: the folder of the model store.
        """
        self._authenticator = authenticator
        self._store = store

    async def answer(self, request: Request) -> Response:
        try:
            async with self._authenticator.access.request(caller_of(request, self._authenticator)):
                file = await asyncio.to_thread(self._find, request.scope)
            if file is None:
                raise NoSuchPage(request.url.path)
            kind = file.suffix.lower()
            # Some web pages request only the first bytes of a tensor, and then read all numbers with the wrong byte order. If
            # parts are refused, they request the whole file and read it correctly.
            if kind == _TENSOR and "range" in request.headers:
                raise NoParts(request.url.path)
            return _WholeFile(file, media_type=_media_type(kind), headers=_headers(kind))
        except BioEngineError as error:
            return refusal(error)

    def _find(self, scope: Scope) -> Path | None:
        """The file that a path names, if it is one that may be shown."""
        found = re.fullmatch(_PATH, raw_path(scope))
        assert found is not None
        try:
            model = self._store.find(found["place"])
            return stored_file(model.folder, found["name"], shown_files(model.manifest))
        except (NotStored, PackageUnreadable, OSError, ValueError):
            return None


class _WholeFile(FileResponse):
    """Sends a whole file, whatever part of it is requested."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in (b"range", b"if-range")]
        await super().__call__({**scope, "headers": headers}, receive, send)


def _media_type(kind: str) -> str:
    return _PICTURES.get(kind) or _TEXTS.get(kind) or _DATA


def _headers(kind: str) -> Mapping[str, str]:
    how = "inline" if kind in _PICTURES else "attachment"
    return {"accept-ranges": "none", "cache-control": "no-cache", "content-disposition": how}
