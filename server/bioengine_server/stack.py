"""The whole stack, one process and its Triton: `bioengine up`.

lock home and port -> clean up after earlier starts -> start Triton | start Hypha -> register triton-client -> probe -> ready
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

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
from bioengine_server.errors import HomeInUse, StackError, UnsafeFolder
from bioengine_server.fresh import keep_fresh, locked
from bioengine_server.gateway.route import LegacyGateway
from bioengine_server.home_in_use import announced
from bioengine_server.http.health import Health
from bioengine_server.http.routes import add_web
from bioengine_server.http.server import HttpServer, listen
from bioengine_server.hypha.application import create_hypha, hypha_store, share_service
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.rpc_limits import hide_tracebacks, use_limited_rpc
from bioengine_server.hypha.secrets import JWT_SECRET, checked_secret, home_secret, kept_secret, new_secret
from bioengine_server.log_file import SERVER_LOG, logged_to
from bioengine_server.log_format import formatter
from bioengine_server.memory import leave_what_is_there
from bioengine_server.parts import check_room, what_is_missing
from bioengine_server.private_folder import make_private
from bioengine_server.service.readiness import Liveness, Readiness
from bioengine_server.service.registration import LocalRegistration, Registration
from bioengine_server.service.triton_client import SERVICE_ID, TritonClient
from bioengine_server.service_manager import READY, STOPPING, notify, tell_status
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.service import StoreService
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.connection import UNIX
from bioengine_server.triton.plain_names import PlainNames
from bioengine_server.triton.process import TritonProcess
from bioengine_server.triton.restart import ask_for_restart
from bioengine_server.triton.runner import Runner, Watcher
from bioengine_server.workers.triton_worker import TritonWorker

logger = logging.getLogger(__name__)

# The time limit for a stop as a whole; a second Ctrl-C ends the process at once.
_STOP_PATIENCE = 9.0  # seconds
_BACKGROUND_PATIENCE = 1.0  # seconds
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
            gateway = LegacyGateway(app, lambda: hypha_store(app), authenticator)
            callers = CallerNames(registry)
            overview = Overview(settings, callers, lambda: liveness.reason or readiness.reason)
            metrics = Metrics(settings, callers, overview)
            overview.on_end(RequestLog(callers).write)
            service = None
            if settings.triton != "none":
                service = await parts.enter_async_context(
                    _service_on_triton(settings, names, access, stop, readiness, overview, on_start)
                )
            served = add_web(app, settings, authenticator, Health(readiness, liveness, name), metrics, service)
            on_start(f"Hypha on {settings.advertised_url}")
            server = HttpServer(served, listener, settings.peer_connections)
            parts.push_async_callback(server.stop)
            await server.start()
            await parts.enter_async_context(control_room(overview, settings.node_folder))
            store = hypha_store(app)
            share_service(store, SERVICE_ID)
            if service is not None:
                service.watch_clients(store.get_event_bus().is_local_client)
                service.watch_readiness(lambda: readiness.reason is None)
            registration = _local_registration(store, service, gateway, liveness)
            await registration.register()
            await parts.enter_async_context(background(registration.watch()))
            await parts.enter_async_context(background(authenticator.watch()))
            await parts.enter_async_context(background(readiness.watch(store, settings.probe_interval)))
            await parts.enter_async_context(background(keep_fresh(settings.node_folder, names)))
            await parts.enter_async_context(background(tell_status(lambda: overview.reason)))
            await parts.enter_async_context(background(_announce(readiness, on_ready)))
            await _first(stop, liveness.lost)
            logger.info("Stopping")
            if stop.is_set():
                notify(STOPPING)
            if service is not None:
                service.stop()
                await asyncio.sleep(_LAST_ANSWERS)
            await gateway.stop()
    return not stop.is_set()


def _local_registration(
    store: RedisStore, service: TritonClient | None, gateway: LegacyGateway, liveness: Liveness
) -> LocalRegistration:
    registration = None if service is None else Registration(service)

    def registered(id: str) -> None:
        assert service is not None
        gateway.local.add(id, service.definition())

    return LocalRegistration(store, registration, registered, liveness.lost.set)


async def _first(*events: asyncio.Event) -> None:
    """Wait for any of them."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


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
async def _service_on_triton(
    settings: Settings,
    names: PlainNames,
    access: Access,
    stop: asyncio.Event,
    readiness: Readiness,
    overview: Overview,
    on_start: Callable[[str], None],
) -> AsyncIterator[TritonClient]:
    """The service for an embedded Triton, which runs during the context, or for the Triton in the settings."""
    async with contextlib.AsyncExitStack() as parts:
        await asyncio.to_thread(install_shipped_models, settings)
        if settings.triton == "embedded":
            secret = new_secret()
            triton = TritonProcess(settings, secret, names, readiness.fail)
            on_start(f"Triton on {triton.url} (log: {triton.log_file})")
            triton.start()
            parts.push_async_callback(triton.stop)
            # Not only after Hypha has ended, because both need seconds to stop.
            await parts.enter_async_context(background(_stop_with(stop, triton)))
            url, restart = triton.url, triton.restart
        else:
            url, secret, restart = settings.triton, external_secret(settings), None
            SharedTensors(settings.tensor_folder).clear()
            if file := settings.triton_secret_file:
                restart = partial(ask_for_restart, file)
            on_start(f"using Triton on {url}")
        watcher = StackWatcher(readiness, restart)
        readiness.when_stuck(watcher.on_stuck)
        service = service_for(
            settings, access, url, secret, settings.advertised_url, watcher, overview, files_url=settings.advertised_url
        )
        yield await parts.enter_async_context(service)


@contextlib.asynccontextmanager
async def service_for(
    settings: Settings,
    access: Access,
    triton_url: str,
    secret: str,
    public_url: str,
    watcher: Watcher,
    overview: Overview,
    files_url: str = "",
) -> AsyncIterator[TritonClient]:
    """The service for a Triton, whose model runner is kept healthy during the context."""
    api = TritonApi(triton_url, secret, settings.run_timeout)
    runner = Runner(api, watcher)
    shared = SharedTensors(settings.tensor_folder, is_own=settings.triton == "embedded")
    worker = TritonWorker(runner, shared, is_local=triton_url.startswith(UNIX))
    store = StoreService(settings)
    dispatcher = Dispatcher(settings, worker, store, files_url)
    overview.watch(dispatcher)

    def learn(report: Report) -> None:
        dispatcher.loaded.learn(report)
        overview.learn(report)

    try:
        async with (
            background(runner.watch(settings.probe_interval, learn)),
            background(dispatcher.upkeep.run()),
        ):
            yield TritonClient(dispatcher, api, access, public_url)
    finally:
        store.close()
        await api.close()


async def run_registration(settings: Settings, hypha_url: str, token: str) -> None:
    """Offer the Triton in the settings in the Hypha server at `hypha_url`, until SIGINT or SIGTERM. Raises StackError."""
    stop = stop_on_signals()
    if not settings.triton_is_elsewhere:
        raise StackError("No Triton to offer. Give its address with --triton URL, as `./bioengine triton` prints it.")
    secret = external_secret(settings)
    if not settings.store.is_dir():
        raise StackError(
            f"There are no models in the home {settings.home}. Set BIOENGINE_HOME to the home of the Triton that is "
            "offered: its models are looked up there."
        )
    if not settings.debug:
        hide_tracebacks()
    # The other server has authenticated the callers, and knows which tokens are needed and valid.
    access = Access(settings.model_copy(update={"access": "open"}), registry=None)
    use_limited_rpc(access.size_limit)
    callers = CallerNames(None)
    overview = Overview(settings, callers, lambda: None)
    overview.on_end(RequestLog(callers).write)
    async with service_for(settings, access, settings.triton, secret, hypha_url, Watcher(), overview) as service:
        async with background(Registration(service).run(hypha_url, token)):
            await stop.wait()


async def run_triton(settings: Settings, on_start: Callable[[str], None]) -> None:
    """Run only Triton, for a separate registration process, until SIGINT or SIGTERM. Raises StackError."""
    stop = stop_on_signals()
    with own_home(settings):
        names = PlainNames(settings.plain_names)
        triton = TritonProcess(settings, external_secret(settings), names, on_end=lambda reason: None)
        await asyncio.to_thread(install_shipped_models, settings)
        on_start(f"Triton on {triton.url} (log: {triton.log_file})")
        triton.start()
        try:
            async with background(keep_fresh(settings.node_folder, names)):
                await stop.wait()
        finally:
            await triton.stop()


def external_secret(settings: Settings) -> str:
    """The secret of a Triton that is not started by this process. Raises StackError."""
    if settings.triton_secret_file is not None:
        return kept_secret(settings.triton_secret_file)
    secret = settings.triton_secret.get_secret_value() if settings.triton_secret else ""
    return checked_secret(
        "BIOENGINE_TRITON_SECRET",
        secret,
        "Set the same secret, or the same file with it (BIOENGINE_TRITON_SECRET_FILE), here and where Triton is started; "
        "create one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'",
    )


def install_shipped_models(settings: Settings) -> None:
    """Make sure that the bundled models are in the store: the readiness probe's, and one for a first result."""
    store = ModelStore(settings.store)
    store.renew_manifests()
    store.install_shipped()


@contextlib.contextmanager
def own_home(settings: Settings) -> Iterator[str]:
    """Lock the home and its run dir for this process, and return the server's name. Raises StackError."""
    try:
        settings.store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The home {settings.home} cannot be made: {error.strerror}. Choose another with --home FOLDER."
        ) from error
    folder = settings.node_folder
    if "?" in str(folder):  # SQLAlchemy would cut the path of Hypha's database there
        raise StackError(f"The run dir {folder} has a '?' in its name. Choose another with BIOENGINE_RUN_DIR.")
    try:
        make_private(folder)
    except OSError as error:
        raise StackError(
            f"The run dir {folder} cannot be made: {error.strerror}. Choose another with BIOENGINE_RUN_DIR."
        ) from error
    check_room(settings)
    with contextlib.ExitStack() as locks:
        with contextlib.suppress(OSError):  # a file system without locks; the folder's times are updated too
            locks.enter_context(locked(folder))
        locks.enter_context(_owned(folder, settings))
        # Needed even if two servers with the same home use different run dirs: they would stop each other's Triton.
        if folder != settings.usual_node_folder:
            with contextlib.suppress(OSError, UnsafeFolder):
                make_private(settings.usual_node_folder)
                locks.enter_context(_owned(settings.usual_node_folder, settings))
        yield locks.enter_context(announced(settings))


@contextlib.contextmanager
def _owned(folder: Path, settings: Settings) -> Iterator[None]:
    """Lock a folder on this node for this process. Raises HomeInUse, OSError."""
    # On this node, not in the home, which may be on a network file system.
    with open(os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUse(settings.home, owner.read().strip() or "starting") from None
        owner.truncate(0)
        owner.write(f"process {os.getpid()}, {settings.url}\n")
        owner.flush()
        yield


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set. A second signal, or a stop that hangs, ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        # The kernel then kills Triton too (see bioengine_runner.launch); the next start cleans up the rest.
        loop.call_later(_STOP_PATIENCE, os._exit, 1)

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, handle)
    return stop


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` as a task for as long as the context is open."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        # With a time limit: a hypha-rpc call that is cancelled while its other side is disconnected may never end.
        await asyncio.wait({task}, timeout=_BACKGROUND_PATIENCE)


async def _stop_with(stop: asyncio.Event, triton: TritonProcess) -> None:
    await stop.wait()
    await triton.stop()


async def _announce(readiness: Readiness, on_ready: Callable[[], None]) -> None:
    await readiness.became_ready.wait()
    leave_what_is_there()
    notify(READY)
    on_ready()
