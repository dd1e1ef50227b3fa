"""CORS: which headers web pages of other origins may send and read. `Origins` decides which pages may call the server."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from bioengine_server.network.origins import Origins

_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST")
_MAY_SEND = (
    "Authorization",
    "Content-Type",
    "Content-Encoding",
    "Accept-Encoding",
    "Range",
    "Origin",
    "X-Requested-With",
    "Inference-Header-Content-Length",
)
# Not Content-Encoding: a client that can read it would decompress again what the browser has already decompressed.
_MAY_READ = ("Inference-Header-Content-Length", "Content-Type", "Range", "Origin", "Retry-After")


def answer_pages(app: FastAPI, origins: Origins) -> ASGIApp:
    """Wrap `app` with CORS for pages of `origins`, without credentials, on all routes, instead of Hypha's own rules.

    It has to be the outermost wrapper, because uncaught errors are answered outside of `app`'s middleware.
    """
    app.user_middleware = [item for item in app.user_middleware if "CORS" not in getattr(item.cls, "__name__", "")]
    return _Pages(app, origins)


class _Pages(CORSMiddleware):
    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        super().__init__(
            app,
            allow_origins=["*"] if origins.takes_all else [],
            allow_methods=_METHODS,
            allow_headers=_MAY_SEND,
            expose_headers=_MAY_READ,
            allow_credentials=False,
        )
        self._origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        return self._origins.match(origin)
