"""Pages of other origins may call this server: which ones, and which headers they may send and read."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

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


def allow_origins(app: FastAPI, origins: list[str]) -> None:
    """Answer pages of `origins` ("*": of any), without credentials, on every route of `app`; instead of Hypha's own rules."""
    app.user_middleware = [item for item in app.user_middleware if "CORS" not in getattr(item.cls, "__name__", "")]
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_MAY_SEND,
        expose_headers=_MAY_READ,
        allow_credentials=False,
    )
