"""One worker, one process and its Triton: `bioengine worker`.

lock a home of its own -> join -> start Triton -> take work -> (SIGTERM, or drained) -> finish what is in hand -> leave -> end
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bioengine_contract.operations import Report
from bioengine_contract.version import VERSION

from bioengine_server.errors import HomeInUse, StackError
from bioengine_server.fresh import keep_fresh
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.lifecycle import background, own_home, stop_on_signals, sweep_dead
from bioengine_server.log_file import SERVER_LOG, logged_to
from bioengine_server.log_format import formatter
from bioengine_server.settings import Settings
from bioengine_server.stack import local_worker
from bioengine_server.store.layout import is_read_only
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.plain_names import PlainNames
from bioengine_server.triton.process import TritonProcess
from bioengine_server.triton.runner import Runner, Watcher
from bioengine_server.worker_side.copies import ModelCopies
from bioengine_server.worker_side.jobs import Jobs
from bioengine_server.worker_side.name import name_of
from bioengine_server.worker_side.puller import Puller
from bioengine_server.worker_side.server import Server
from bioengine_server.workers.protocol import Join, Joined

logger = logging.getLogger(__name__)

JOINED = "joined"
"""A file in the run dir, for as long as the worker is joined and can run models: other programs look at it."""

_MOST_ON_ONE_MACHINE = 64


async def run_worker(settings: Settings, token: str, problem: str, on_start: Callable[[str], None]) -> bool:
    """Work for the server in the settings, until SIGINT or SIGTERM, or until its admin has the worker drained.

    Args:
        settings: of the worker.
        token: to join with.
        problem: why the worker cannot work; it is refused with that then, so that the server's log says it as well.
        on_start: called with the name of each part that is started.

    Returns whether the process has to be started again, since the server's settings have changed. Raises StackError, Refused.
    """
    signalled = stop_on_signals(patience=None)
    name = name_of(settings)
    with home_for(settings) as own:
        mark = own.node_folder / JOINED
        mark.unlink(missing_ok=True)
        async with contextlib.AsyncExitStack() as parts:
            parts.enter_context(logged_to(own.node_folder / SERVER_LOG, formatter(own)))
            server = await parts.enter_async_context(Server(own.server_url, token, name))
            worker = _Worker(own, server, name, problem or _problem_of(own))
            parts.push_async_callback(worker.close)
            await parts.enter_async_context(background(partial(worker.leave_after, signalled)))
            await asyncio.to_thread(sweep_dead)
            on_start(f"worker {name}, for {own.server_url}")
            joined = await worker.puller.join()
            parts.callback(mark.unlink, missing_ok=True)
            return joined is not None and await worker.work(joined, mark, on_start)


class _Worker(Watcher):
    """The parts of a worker, and what they tell each other."""

    def __init__(self, settings: Settings, server: Server, name: str, problem: str) -> None:
        self._settings = settings
        self._server = server
        self._name = name
        self._problem = problem
        self._start = uuid.uuid4().hex
        self._has_to_start_again = False
        self._is_joined = False
        self._triton: TritonProcess | None = None
        self._names = PlainNames(settings.plain_names)
        secret = new_secret()
        self._secret = secret
        # Its address follows from the home alone, so that it is known before Triton is started.
        self._runner = Runner(TritonApi(TritonProcess.address(settings), secret, settings.run_timeout), self)
        copies = ModelCopies(settings.store, settings.store == settings.home / "models", server)
        worker = local_worker(settings, self._runner)
        jobs = Jobs(worker, copies, worker.shared)
        self.puller = Puller(server, self._join, jobs, settings.places)

    async def leave_after(self, stop: asyncio.Event) -> None:
        """Have the worker leave when `stop` is set."""
        await stop.wait()
        self.puller.leaving.set()

    async def work(self, joined: Joined, mark: Path, on_start: Callable[[str], None]) -> bool:
        """Whether the process has to be started again. Raises StackError, Refused."""
        # Trust is the server's to decide: its models' processes are started with what it has said.
        settings = self._settings.model_copy(update={"trusted_models": joined.trusted})

        def on_joined(again: Joined) -> None:
            logger.info("Joined %s as %s, with %d places", settings.server_url, self._name, settings.places)
            self._is_joined = True
            self._show(mark)
            if again.trusted != joined.trusted:
                logger.info("The server trusts other packages than before: the worker starts again")
                self._has_to_start_again = True
                self.puller.leaving.set()

        self.puller.on_joined = on_joined

        def on_lost() -> None:
            self._is_joined = False
            self._show(mark)

        def learn(report: Report) -> None:
            self.puller.report, self.puller.not_ready = report, ""
            self._show(mark)

        self.puller.on_lost = on_lost
        self._triton = TritonProcess(settings, self._secret, self._names, self._on_end)
        on_start(f"Triton on {self._triton.url} (log: {self._triton.log_file})")
        self._triton.start()
        try:
            async with (
                background(partial(self._runner.watch, settings.probe_interval, learn)),
                background(partial(keep_fresh, settings.node_folder, self._names)),
            ):
                await self.puller.work(joined)
        finally:
            await self._triton.stop()
        return self._has_to_start_again

    async def close(self) -> None:
        await self._runner.api.close()

    def on_repair(self, under_way: bool) -> None:
        self.puller.not_ready = "instances of its model runner have died and are being replaced" if under_way else ""

    def on_stuck(self) -> None:
        if self._triton is not None:
            self._triton.restart()

    def on_away(self) -> None:
        self.puller.not_ready = "its Triton does not answer; it is being started again if it has ended"

    def _on_end(self, reason: str) -> None:
        self.puller.not_ready = reason

    def _show(self, mark: Path) -> None:
        """Have the file say whether the worker is joined and can run models."""
        if self._is_joined and not self.puller.not_ready:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def _join(self) -> Join:
        settings = self._settings
        return Join(
            version=VERSION,
            start=self._start,
            host=socket.gethostname(),
            time=time.time(),
            places=settings.places,
            problem=self._problem,
            memory_limit=settings.memory_limit,
            gpu_memory_limit=settings.gpu_memory_limit,
            devices=sorted(settings.cards),
        )


@contextlib.contextmanager
def home_for(settings: Settings) -> Iterator[Settings]:
    """The settings of one worker, whose home no other worker on this machine uses: `<home>/workers/<machine>-<number>`.

    Its run dir, its shared memory and its store follow from that. The number is the first one that is free, so that a later
    worker finds the models which an earlier one has copied. Raises StackError.
    """
    shared_store = settings.store != settings.home / "models"
    for number in range(1, _MOST_ON_ONE_MACHINE + 1):
        home = settings.home / "workers" / f"{socket.gethostname()}-{number}"
        store = settings.store if shared_store else home / "models"
        own = settings.model_copy(update={"home": home, "store": store, "triton": "embedded"})
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(own_home(own))
            except HomeInUse:
                if settings.run_dir is not None:
                    raise
                continue
            yield own
            return
    raise StackError(
        f"There are {_MOST_ON_ONE_MACHINE} workers on this machine with the home {settings.home} already. Stop one of them, or "
        "give this one another home with --home."
    )


def _problem_of(settings: Settings) -> str:
    """Why a worker with these settings cannot work; empty: it can."""
    store = settings.store
    if store != settings.home / "models":
        can_read = os.access(store, os.R_OK | os.X_OK)
        advice = "Make the server's store readable there, or unset BIOENGINE_STORE: the worker then copies the models."
        return "" if can_read else f"The worker cannot read its store {store} (BIOENGINE_STORE). {advice}"
    if is_read_only(store) or not os.access(store, os.W_OK):
        return (
            f"The worker cannot write its store {store}. Give it another home with --home or BIOENGINE_HOME; or, if the folder "
            "is the server's and shared, name it in BIOENGINE_STORE."
        )
    return ""
