"""All routes of the server in one table, and the middleware in front of them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from bioengine_server.control.metrics import Metrics
from bioengine_server.foreign.hypha import is_connected
from bioengine_server.http.allowed_routes import AllowedRoutes
from bioengine_server.http.authentication import AuthenticationMiddleware
from bioengine_server.http.body import BoundedBodies
from bioengine_server.http.body_memory import BodyMemory
from bioengine_server.http.cors import answer_pages
from bioengine_server.http.health import Health
from bioengine_server.http.host_and_origin import HostAndOrigin
from bioengine_server.http.metrics_route import MetricsRoute
from bioengine_server.http.model_files import ModelFiles
from bioengine_server.http.peer_rate import PeerRate
from bioengine_server.http.route_table import ANY, GET, Entry, RouteTable
from bioengine_server.http.security_headers import SafeAnswers
from bioengine_server.http.service_route import SERVICES, ServiceCalls, services_list
from bioengine_server.http.stall_timeout import StallTimeout
from bioengine_server.http.triton_proxy import TritonProxy
from bioengine_server.http.worker_routes import WorkerRoutes
from bioengine_server.hypha.application import hypha_store
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.frames import CheckedFrames
from bioengine_server.hypha.rpc_limits import is_own_end
from bioengine_server.limits import SizeLimit
from bioengine_server.network.origins import Origins
from bioengine_server.service.triton_client import SERVICE_ID, TritonClient
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore
from bioengine_server.workers.links import Links


def route_table(
    app: FastAPI,
    settings: Settings,
    authenticator: Authenticator,
    health: Health,
    metrics: Metrics,
    service: TritonClient,
    links: Links,
    memory: BodyMemory,
) -> RouteTable:
    """The routes of a server.

    Args:
        app: Hypha's application.
        settings: the server's settings.
        authenticator: identifies the caller.
        health: answers the health routes.
        metrics: the figures of `/metrics`.
        service: the service.
        links: the workers that are joined.
        memory: the memory for all bodies together.
    """
    service_path = f"{SERVICES}/{SERVICE_ID}"
    calls = ServiceCalls(authenticator, service, memory)
    triton = TritonProxy(authenticator, service, memory, settings.node_folder)
    files = ModelFiles(authenticator, ModelStore(settings.store))
    entries = [
        Entry("/ws", ANY, is_websocket=True),
        Entry("/health/liveness", GET, health.alive, is_open=True, is_document=True),
        Entry("/health/readiness", GET, health.ready, is_open=True, is_document=True),
        Entry(MetricsRoute.path, GET, MetricsRoute(authenticator, metrics).answer),
        Entry(SERVICES, GET, services_list(app), is_open=True, is_document=True),
        Entry(f"{SERVICES}/", GET, is_open=True, is_document=True),
        Entry(service_path, GET, is_open=True, is_document=True),
        Entry(f"{service_path}/execute", ("POST",), calls.execute),
        Entry(f"{service_path}/get_config", ("GET", "HEAD", "POST"), calls.get_config),
        Entry(f"{service_path}/get_status", ("GET", "HEAD", "POST"), calls.get_status),
        Entry(f"{service_path}/cancel", ("POST",), calls.cancel),
        Entry(TritonProxy.path, ANY, triton.answer, any_spelling=True),
        Entry(ModelFiles.path, ("GET", "HEAD"), files.answer, is_encoded=True),
        *WorkerRoutes(links, service.dispatcher, settings, memory).entries(),
    ]
    return RouteTable(entries)


def add_web(
    app: FastAPI,
    settings: Settings,
    authenticator: Authenticator,
    health: Health,
    metrics: Metrics,
    service: TritonClient,
    links: Links,
) -> ASGIApp:
    """Add routes and middleware, and return the application to be served.

    Args:
        app: Hypha's application, not started yet.
        settings: the server's settings.
        authenticator: decides who may connect.
        health: answers the health routes.
        metrics: the figures of `/metrics`.
        service: the service.
        links: the workers that are joined.
    """
    memory = BodyMemory.beside(settings.max_request_size)
    table = route_table(app, settings, authenticator, health, metrics, service, links, memory)
    app.router.routes[:0] = table.routes()
    # The middleware that is added last gets a request first.
    app.add_middleware(
        CheckedFrames,
        limit_of=authenticator.access.size_limit,
        is_own=is_own_end,
        is_connected=lambda id: is_connected(hypha_store(app), id),
    )
    app.add_middleware(BoundedBodies, limit=SizeLimit(settings.max_request_size), table=table, memory=memory)
    app.add_middleware(AuthenticationMiddleware, authenticator=authenticator, table=table)
    app.add_middleware(AllowedRoutes, table=table, most=settings.max_request_size)
    app.add_middleware(StallTimeout, seconds=settings.client_timeout)
    app.add_middleware(PeerRate, limit=settings.peer_requests, refusals=authenticator.access.refusals)
    origins = Origins(settings.allow_origins, settings.advertised_url)
    return SafeAnswers(HostAndOrigin(answer_pages(app, origins), settings.known_hosts(), origins, table))
