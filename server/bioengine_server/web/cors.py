"""Pages of other origins may call this server: which ones, and which headers they may send and read."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

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


def allow_origins(app: FastAPI, origins: list[str]) -> ASGIApp:
    """`app` for pages of `origins` ("*": of any), without credentials, on every route; instead of Hypha's own rules.

    Around all of it: an error that nobody caught is answered outside of the middleware of `app`.
    """
    app.user_middleware = [item for item in app.user_middleware if "CORS" not in getattr(item.cls, "__name__", "")]
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_MAY_SEND,
        expose_headers=_MAY_READ,
        allow_credentials=False,
    )
