"""Put what is answered over plain HTTP before and around Hypha's own application."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from bioengine_server.http.allowed_routes import Surface
from bioengine_server.http.authentication import AuthenticationMiddleware
from bioengine_server.http.body import BoundedBodies
from bioengine_server.http.body_memory import BodyMemory
from bioengine_server.http.cors import answer_pages
from bioengine_server.http.host_and_origin import Gate
from bioengine_server.http.model_files import ModelFilesRoute
from bioengine_server.http.peer_rate import PeerRate
from bioengine_server.http.security_headers import SafeAnswers
from bioengine_server.http.service_route import service_routes, services_route
from bioengine_server.http.stall_timeout import Patience
from bioengine_server.http.triton_proxy import TritonProxyRoute
from bioengine_server.hypha.application import hypha_store
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.frames import CheckedFrames
from bioengine_server.hypha.hypha_parts import is_connected
from bioengine_server.hypha.rpc_limits import is_own_end
from bioengine_server.limits import SizeLimit
from bioengine_server.network.origins import Origins
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore


def add_web(app: FastAPI, settings: Settings, keeper: Authenticator, service: TritonClient | None) -> ASGIApp:
    """Add routes and middleware; what is to be served is returned.

    Args:
        app: Hypha's application, not started yet.
        settings: of the server.
        keeper: says who is let in.
        service: the service in this process, if it is here.
    """
    memory = BodyMemory.beside(settings.max_request_size)
    own: list[BaseRoute] = [services_route(app)]
    triton: list[BaseRoute] = []
    files: list[BaseRoute] = []
    if service is not None:
        triton = [TritonProxyRoute(keeper, service, memory, settings.node_folder)]
        files = [ModelFilesRoute(keeper, ModelStore(settings.store))]
        own += [*triton, *service_routes(keeper, service, memory)]
    app.router.routes[:0] = [*own, *files]
    # The last that is added sees a request first.
    app.add_middleware(
        CheckedFrames,
        limit_of=keeper.access.size_limit,
        is_own=is_own_end,
        is_connected=lambda id: is_connected(hypha_store(app), id),
    )
    app.add_middleware(BoundedBodies, limit=SizeLimit(settings.max_request_size), own=own, memory=memory)
    app.add_middleware(AuthenticationMiddleware, keeper=keeper)
    app.add_middleware(Surface, own=[*triton, *files], most=settings.max_request_size)
    app.add_middleware(Patience, seconds=settings.client_timeout)
    app.add_middleware(PeerRate, limit=settings.peer_requests)
    origins = Origins(settings.allow_origins, settings.told_url)
    return SafeAnswers(Gate(answer_pages(app, origins), settings.known_hosts(), origins))
