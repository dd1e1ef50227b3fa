"""Put what is answered over plain HTTP before and around Hypha's own application."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from hypha.core.store import RedisStore
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from bioengine_server.hub.frames import CheckedFrames
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.settings import Settings
from bioengine_server.web.body import BoundedBodies
from bioengine_server.web.cors import allow_origins
from bioengine_server.web.patience import Patience
from bioengine_server.web.service_route import service_routes, services_route
from bioengine_server.web.triton_proxy import TritonProxyRoute


def add_web(app: FastAPI, settings: Settings, store: Callable[[], RedisStore], service: TritonClient | None) -> ASGIApp:
    """Add routes and middleware; what is to be served is returned.

    Args:
        app: Hypha's application, not started yet.
        settings: of the server.
        store: gives Hypha's store.
        service: the service in this process, if it is here.
    """
    limit = settings.max_request_size
    own: list[BaseRoute] = [services_route(app)]
    if service is not None:
        own += [TritonProxyRoute(store, service, limit), *service_routes(store, service, limit)]
    app.router.routes[:0] = own
    app.add_middleware(CheckedFrames)
    app.add_middleware(BoundedBodies, limit=limit, own=own)
    app.add_middleware(Patience, seconds=settings.client_timeout)
    return allow_origins(app, [origin.strip() for origin in settings.allow_origins.split(",") if origin.strip()])
