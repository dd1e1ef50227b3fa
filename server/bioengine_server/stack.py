"""The whole stack, one process and its Triton: `bioengine up`.

lock home and port -> clean up after earlier starts -> start Triton | start Hypha -> register triton-client -> probe -> ready
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial

from bioengine_contract.operations import Report
from bioengine_contract.shared_tensors import SharedTensors
from hypha.core.store import RedisStore

from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.metrics import Metrics
from bioengine_server.control.overview import Overview
from bioengine_server.control.request_log import RequestLog
from bioengine_server.control.server import control_room
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.fresh import keep_fresh
from bioengine_server.gateway.route import LegacyGateway
from bioengine_server.http.health import Health
from bioengine_server.http.routes import add_web
from bioengine_server.http.server import HttpServer, listen
from bioengine_server.hypha.application import create_hypha, hypha_store, share_service
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.rpc_limits import hide_tracebacks
from bioengine_server.hypha.secrets import JWT_SECRET, external_secret, home_secret, new_secret, worker_secret
from bioengine_server.lifecycle import background, first, own_home, stop_on_signals
from bioengine_server.log_file import SERVER_LOG, logged_to
from bioengine_server.log_format import formatter
from bioengine_server.memory import leave_what_is_there
from bioengine_server.parts import what_is_missing
from bioengine_server.service.readiness import Liveness, Readiness
from bioengine_server.service.registration import LocalRegistration, Registration
from bioengine_server.service.triton_client import SERVICE_ID, TritonClient
from bioengine_server.service_manager import READY, STOPPING, notify, tell_status
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.service import StoreService
from bioengine_server.triton.absent import AbsentTriton
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.connection import UNIX
from bioengine_server.triton.plain_names import PlainNames
from bioengine_server.triton.process import TritonProcess
from bioengine_server.triton.restart import ask_for_restart
from bioengine_server.triton.runner import Runner, Watcher
from bioengine_server.workers.links import Links
from bioengine_server.workers.triton_worker import TritonWorker

logger = logging.getLogger(__name__)

_LAST_ANSWERS = 0.3  # seconds in which answers to the last requests have to be sent


async def run_stack(settings: Settings, on_start: Callable[[str], None], on_ready: Callable[[], None]) -> bool:
    """Run Hypha, and Triton if it is embedded, until SIGINT or SIGTERM. Returns whether the process has to be restarted.

    Args:
        settings: the server's settings.
        on_start: called with the name of each part that is started.
        on_ready: called when the first probe has succeeded.

    Raises StackError.
    """
    stop = stop_on_signals()
    liveness = Liveness()
    if not settings.debug:
        hide_tracebacks()
    with own_home(settings) as name, contextlib.closing(listen(settings.bind_address, settings.port)) as listener:
        async with contextlib.AsyncExitStack() as parts:
            parts.enter_context(logged_to(settings.node_folder / SERVER_LOG, formatter(settings)))
            registry = TokenRegistry(settings.home)
            access = Access(settings, registry)
            app = create_hypha(settings, access, home_secret(settings.home, JWT_SECRET))
            authenticator = Authenticator(access, registry)
            await authenticator.verifier.replace_hyphas()
            names = PlainNames(settings.plain_names)
            readiness = Readiness(partial(what_is_missing, settings, names))
            links = Links(authenticator.verifier.check_worker, worker_secret(settings))
            gateway = LegacyGateway(app, lambda: hypha_store(app), authenticator)
            callers = CallerNames(registry)
            overview = Overview(settings, callers, lambda: liveness.reason or readiness.reason)
            metrics = Metrics(settings, callers, overview)
            overview.on_end(RequestLog(callers).write)
            service = await parts.enter_async_context(_service(settings, names, access, stop, readiness, overview, on_start))
            pool = service.dispatcher.pool
            links.on_join, links.on_loss = pool.join, pool.leave
            readiness.unless(lambda: pool.local is None and not pool.ready)
            health = Health(readiness, liveness, name, lambda: pool.ready)
            served = add_web(app, settings, authenticator, health, metrics, service, links)
            on_start(f"Hypha on {settings.advertised_url}")
            server = HttpServer(served, listener, settings.peer_connections)
            parts.push_async_callback(server.stop)
            await server.start()
            await parts.enter_async_context(control_room(overview, settings.node_folder))
            store = hypha_store(app)
            share_service(store, SERVICE_ID)
            service.watch_clients(store.get_event_bus().is_local_client)
            service.watch_readiness(lambda: readiness.reason is None)
            registration = _local_registration(store, service, gateway, liveness)
            await registration.register()
            for work in (
                registration.watch,
                authenticator.watch,
                links.watch,
                partial(readiness.watch, store, settings.probe_interval),
                partial(keep_fresh, settings.node_folder, names),
                partial(tell_status, lambda: overview.reason),
                partial(_announce, readiness, on_ready),
            ):
                await parts.enter_async_context(background(work))
            await first(stop, liveness.lost)
            logger.info("Stopping")
            if stop.is_set():
                notify(STOPPING)
            service.stop()
            await asyncio.sleep(_LAST_ANSWERS)
            links.close()
            await gateway.stop()
    return not stop.is_set()


def _local_registration(
    store: RedisStore, service: TritonClient, gateway: LegacyGateway, liveness: Liveness
) -> LocalRegistration:
    def registered(id: str) -> None:
        gateway.local.add(id, service.definition())

    return LocalRegistration(store, Registration(service), registered, liveness.lost.set)


class StackWatcher(Watcher):
    """Has readiness tell of repairs, and restarts a Triton of our own that is past repair."""

    def __init__(self, readiness: Readiness, restart: Callable[[], None] | None) -> None:
        self._readiness = readiness
        self._restart = restart

    def on_repair(self, under_way: bool) -> None:
        self._readiness.repairing(under_way)

    def on_stuck(self) -> None:
        if self._restart is not None:
            self._restart()

    def on_away(self) -> None:
        if self._readiness.reason is None:
            self._readiness.fail("the inference server does not answer; if it has ended, it is being restarted")


@contextlib.asynccontextmanager
async def _service(
    settings: Settings,
    names: PlainNames,
    access: Access,
    stop: asyncio.Event,
    readiness: Readiness,
    overview: Overview,
    on_start: Callable[[str], None],
) -> AsyncIterator[TritonClient]:
    """The service for an embedded Triton, which runs during the context, for the Triton in the settings, or for workers alone."""
    async with contextlib.AsyncExitStack() as parts:
        await asyncio.to_thread(ModelStore(settings.store).prepare)
        if settings.triton == "workers":
            on_start("without a Triton: models run on workers that join")
            yield await parts.enter_async_context(service_for(settings, access, None, settings.advertised_url, overview))
            return
        if settings.triton == "embedded":
            secret = new_secret()
            triton = TritonProcess(settings, secret, names, readiness.fail)
            on_start(f"Triton on {triton.url} (log: {triton.log_file})")
            triton.start()
            parts.push_async_callback(triton.stop)
            # Not only after Hypha has ended, because both need seconds to stop.
            await parts.enter_async_context(background(partial(_stop_with, stop, triton)))
            url, restart = triton.url, triton.restart
        else:
            url, secret, restart = settings.triton, external_secret(settings), None
            SharedTensors(settings.tensor_folder).clear()
            if file := settings.triton_secret_file:
                restart = partial(ask_for_restart, file)
            on_start(f"using Triton on {url}")
        watcher = StackWatcher(readiness, restart)
        readiness.when_stuck(watcher.on_stuck)
        runner = Runner(TritonApi(url, secret, settings.run_timeout), watcher)
        url = settings.advertised_url
        yield await parts.enter_async_context(service_for(settings, access, runner, url, overview, files_url=url))


@contextlib.asynccontextmanager
async def service_for(
    settings: Settings,
    access: Access,
    runner: Runner | None,
    public_url: str,
    overview: Overview,
    files_url: str = "",
) -> AsyncIterator[TritonClient]:
    """The service, with the model runner of its Triton, where it has one, kept healthy during the context."""
    worker = None if runner is None else local_worker(settings, runner)
    api = AbsentTriton() if runner is None else runner.api
    store = StoreService(settings)
    dispatcher = Dispatcher(settings, worker, store, files_url)
    overview.watch(dispatcher)
    own_models = dispatcher.pool.local

    def learn(report: Report) -> None:
        assert own_models is not None
        own_models.learn(report)
        overview.learn(report)

    try:
        async with contextlib.AsyncExitStack() as parts:
            if runner is not None:
                await parts.enter_async_context(background(partial(runner.watch, settings.probe_interval, learn)))
            await parts.enter_async_context(background(dispatcher.upkeep.run))
            yield TritonClient(dispatcher, api, access, public_url)
    finally:
        store.close()
        await api.close()


def local_worker(settings: Settings, runner: Runner) -> TritonWorker:
    """The Triton of a model runner, as a worker."""
    shared = SharedTensors(settings.tensor_folder, is_own=settings.triton == "embedded")
    return TritonWorker(runner, shared, is_local=runner.api.url.startswith(UNIX))


async def _stop_with(stop: asyncio.Event, triton: TritonProcess) -> None:
    await stop.wait()
    await triton.stop()


async def _announce(readiness: Readiness, on_ready: Callable[[], None]) -> None:
    await readiness.became_ready.wait()
    leave_what_is_there()
    notify(READY)
    on_ready()
