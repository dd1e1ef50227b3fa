"""Put what is answered over plain HTTP before and around Hypha's own application."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from hypha.core.store import RedisStore

from bioengine_server.hub.frames import CheckedFrames
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.settings import Settings
from bioengine_server.web.body import BoundedBodies
from bioengine_server.web.cors import allow_origins
from bioengine_server.web.service_route import add_service_routes
from bioengine_server.web.triton_proxy import add_triton_proxy


def add_web(app: FastAPI, settings: Settings, store: Callable[[], RedisStore], service: TritonClient | None) -> None:
    """Add routes and middleware.

    Args:
        app: Hypha's application, not started yet.
        settings: of the server.
        store: gives Hypha's store.
        service: the service in this process, if it is here.
    """
    streamed = []
    if service is not None:
        add_service_routes(app, store, service, settings.max_request_size)
        streamed.append(add_triton_proxy(app, store, service, settings.max_request_size))
    app.add_middleware(CheckedFrames)
    app.add_middleware(BoundedBodies, limit=settings.max_request_size, streamed=streamed)
    allow_origins(app, [origin.strip() for origin in settings.allow_origins.split(",") if origin.strip()])
