"""Pages of other origins may call this server: which headers they may send and read. Which pages, `Origins` decides."""

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
# Not Content-Encoding: a client that sees it unzips once more what the browser has unzipped already.
_MAY_READ = ("Inference-Header-Content-Length", "Content-Type", "Range", "Origin")


def answer_pages(app: FastAPI, origins: Origins) -> ASGIApp:
    """`app` for pages of `origins`, without credentials, on every route; instead of Hypha's own rules.

    Around all of it: an error that nobody caught is answered outside of the middleware of `app`.
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
