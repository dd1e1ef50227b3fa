"""The server's table of addresses, without Hypha."""

from __future__ import annotations

from bioengine_server.access.rules import Access
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.metrics import Metrics
from bioengine_server.control.overview import Overview
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.http.body_memory import BodyMemory
from bioengine_server.http.health import Health
from bioengine_server.http.route_table import RouteTable
from bioengine_server.http.routes import route_table
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.service.readiness import Liveness, Readiness
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.triton.absent import AbsentTriton
from bioengine_server.workers.links import Links
from fastapi import FastAPI


def table(settings: Settings | None = None) -> RouteTable:
    """That of a server whose models run on workers alone."""
    chosen = settings or Settings()
    authenticator = Authenticator(Access(chosen, None), None)  # type: ignore[arg-type]
    health = Health(Readiness(), Liveness(), "name", lambda: 0)
    names = CallerNames(None)
    metrics = Metrics(chosen, names, Overview(chosen, names, lambda: None))
    memory, links = BodyMemory.beside(chosen.max_request_size), Links(authenticator.verifier.check_worker)
    return route_table(FastAPI(), chosen, authenticator, health, metrics, service(chosen, authenticator.access), links, memory)


def service(settings: Settings, access: Access) -> TritonClient:
    """The service of such a server."""
    return TritonClient(Dispatcher(settings, None, StoreService(settings), ""), AbsentTriton(), access, "")
