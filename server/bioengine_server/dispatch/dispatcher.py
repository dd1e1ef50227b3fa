"""The one way of a request for a stored model.

    request -> package -> arrays that fit -> turn -> worker -> loaded -> run on the model's own Triton model -> result

Small and large requests, from whatever client, go this way. What goes wrong is an error with a code, which clients get as data.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from bioengine_contract import run
from bioengine_contract.errors import BioEngineError, Fault
from bioengine_contract.manifest import Manifest
from bioengine_contract.package import Package
from bioengine_contract.package_errors import ModelNotFound
from bioengine_contract.request import RunRequest
from bioengine_contract.run import Run
from bioengine_contract.store import resolve
from bioengine_contract.triton_model import TritonModel, triton_model

from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.aside import aside
from bioengine_server.dispatch.errors import CallerGone, ModelNotFetched
from bioengine_server.dispatch.jobs import Job, Jobs
from bioengine_server.dispatch.loaded import Loaded, Work
from bioengine_server.dispatch.pool import Pool
from bioengine_server.dispatch.probe import PROBE_MODEL, ProbeLane, ReservedModel
from bioengine_server.dispatch.progress import Progress
from bioengine_server.dispatch.queue import NotWanted, OnStop, Queue
from bioengine_server.dispatch.upkeep import Upkeep
from bioengine_server.settings import Settings
from bioengine_server.store.errors import StoreError
from bioengine_server.store.service import StoreService
from bioengine_server.workers.worker import Body, Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)


# How long a run that nobody wants any more may take to notice that, between two of its tiles, before its process is ended.
_NOTICES_WITHIN = 3.0  # seconds

_DOWNLOAD_TOLD_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Call:
    """Who asks, and who is told of it."""

    caller: Caller
    progress: Progress


async def _nothing(*_: object) -> None:
    pass


class Dispatcher:
    """Decides about requests for the models of one store."""

    def __init__(self, settings: Settings, worker: Worker | None, store: StoreService, files_url: str) -> None:
        """
        Args:
            settings: of the server.
            worker: that belongs to this server; None: models run only on workers that join.
            store: fetches models that are not stored.
            files_url: the URL under which this server gives the files that descriptions name; empty where it does not.
        """
        self._settings = settings
        self._store = store
        self._files_url = files_url
        self.jobs = Jobs()
        self.queue = Queue(settings.concurrency, settings.model_concurrency, settings.queue_size)
        self.pool = Pool(settings, worker, own=frozenset((PROBE_MODEL,)))
        self.pool.on_size = self.queue.resize
        self._probe = ProbeLane(self._run_probe)
        self._run_seconds: dict[str, float] = {}
        kept = [id.strip() for id in settings.preload.split(",") if id.strip()]
        self.upkeep = Upkeep(self.jobs, self.pool, self._preload, kept)

    def status(self) -> dict[str, Any]:
        """The loaded models, but for the server's own, and how many requests wait and run; for everybody to see."""
        names = ("name", "weight_format", "device", "idle")
        models = [{name: model[name] for name in names} for model in self.pool.status() if model["name"] != PROBE_MODEL]
        return {"models": models, "requests": {"waiting": self.queue.waiting, "running": self.queue.running}}

    def workers(self) -> dict[str, Any]:
        """The workers (`Member.describe`), and how many requests wait, for a turn or for a worker, and how many run."""
        queue, without_worker = self.queue, self.pool.waiting
        waiting, running = queue.waiting + without_worker, queue.running - without_worker
        return {"workers": self.pool.describe(), "waiting": waiting, "running": running}

    async def respond(self, request: RunRequest, call: Call) -> dict[str, Any]:
        """The answer to a request, with whatever goes wrong as data."""
        job = Job(call.caller, request.model_id, call.progress, request.inputs)
        try:
            with self.jobs.begun(job):
                return await self.answer(request, job)
        except BioEngineError as error:
            return run.failure(error, job.task_id, self._details())
        except Exception:
            logger.exception("Task %s failed", job.task_id)
            return run.failure(Fault(job.task_id), job.task_id, self._details())

    async def answer(self, request: RunRequest, job: Job) -> dict[str, Any]:
        """The result of a request, or its description alone.

        Raises RequestError, Busy, CallerGone, Cancelled, Stopping, ReservedModel, TritonUnavailable.
        """
        if request.is_plain and self._probe.is_asked(request.model_id, request.inputs, job.caller):
            return await self._probe.run()
        if request.inputs is None:
            return await self._description(request.model_id, job.caller)
        package = await self._package(request.model_id, job)
        if package.id == PROBE_MODEL:
            raise ReservedModel("inputs")
        prepared = await aside(job.size, Run.prepare, package, request, self._settings.trusted)
        result = await self._on_model(prepared.model, job, lambda: self._run(prepared, request, job))
        return {**result, **run.description(package, self._files_url)} if "return_rdf" in request.options else result

    async def forward(self, model_id: str, call: Call, version: str, body: Body, headers: Mapping[str, str]) -> Any:
        """Triton's answer to an inference request of its own protocol, with the model of an id loaded, and downloaded before.

        Raises RequestError, Busy, CallerGone, Cancelled, TritonUnavailable, and what `body` raises.
        """

        async def work(loaded: Loaded) -> Any:
            job.tell("running")
            with job.at_work(loaded):
                return await loaded.worker.forward(loaded.model, version, body, headers, job)

        job = Job(call.caller, model_id, call.progress)
        job.size = int(headers.get("content-length", 0))
        with self.jobs.begun(job):
            model = triton_model(await self._package(model_id, job), trusted=self._settings.trusted)
            return await self._on_model(model, job, lambda: self._on_worker(model, work, job))

    def check_stored(self, model_id: str, argument: str = "model_name") -> None:
        """See that the store has a model of an id that clients may run. Raises RequestError, ReservedModel.

        Args:
            model_id: as the client named it.
            argument: by which he did.
        """
        package = resolve(self._settings.store, model_id)
        if package.id == PROBE_MODEL:
            raise ReservedModel(argument)

    def stored_config(self, model_id: str) -> dict[str, Any]:
        """Triton's configuration of a stored model. Raises RequestError."""
        package = resolve(self._settings.store, model_id)
        model = triton_model(package, trusted=self._settings.trusted)
        return {"name": model.name, **package.manifest.triton_config}

    async def config_in_collection(self, missing: ModelNotFound, caller: Caller) -> dict[str, Any]:
        """Triton's configuration of a model that is not stored, from its description alone. Raises ModelNotFetched, Busy."""
        manifest = await self._in_collection(missing, caller)
        return {"name": manifest.id, **manifest.triton_config}

    async def other_model(self, name: str, call: Call, work: Callable[[], Awaitable[T]], inputs: Any = None) -> T:
        """`await work()`, which runs another model of Triton than those of the store, in its turn.

        Args:
            name: of the Triton model.
            call: who asks.
            work: what is to be done.
            inputs: arrays, for their sizes.

        Raises Busy, CallerGone, Cancelled, Stopping, and what `work` raises.
        """
        with self.jobs.begun(Job(call.caller, name, call.progress, inputs)) as job:

            async def run_it() -> T:
                job.tell("running")
                return await work()

            return await self._in_turn(f"triton:{name}", job, run_it)

    async def _in_turn(self, model: str, job: Job, work: Callable[[], Awaitable[T]], ended: OnStop | None = None) -> T:
        """`await work()` when the turn of a job has come, unless nobody wants its result by then.

        Args:
            model: whose turns they are.
            job: of the request.
            work: what is to be done.
            ended: ends it where it had begun.
        """

        async def if_wanted() -> T:
            job.raise_if_stopped()
            return await work()

        def on_move(position: int) -> None:
            job.has_waited |= position > 0
            job.tell("queued", position=position, **self._estimate(model, position))

        try:
            options = {} if ended is None else {"on_stop": ended}
            return await self.queue.run(model, if_wanted, on_move, job.caller.key, job.size, job.stopped, **options)
        except NotWanted:
            pass
        job.raise_if_stopped()
        raise CallerGone(job.caller)

    def _estimate(self, model: str, position: int) -> dict[str, float]:
        """`estimate`: seconds that a request of this position is going to wait, as far as the last runs of the model tell."""
        seconds = self._run_seconds.get(model)
        if not position or seconds is None:
            return {}
        return {"estimate": round(seconds * -(-position // self.queue.per_model), 1)}

    async def _package(self, model_id: str, job: Job) -> Package:
        """The package that an id names, which is downloaded where it is not stored. Raises RequestError, Busy."""
        try:
            return resolve(self._settings.store, model_id)
        except ModelNotFound as missing:
            job.tell("downloading")
            last = 0.0

            def tell(name: str, done: int, total: int | None) -> None:
                nonlocal last
                if time.monotonic() - last >= _DOWNLOAD_TOLD_EVERY or done == total:
                    job.tell("downloading", file=name, bytes=done, **({} if total is None else {"total": total}))
                    last = time.monotonic()

            try:
                await job.unless_stopped(self._store.fetch(missing.model_id, job.caller, tell, lambda: job.tell("converting")))
            except StoreError as error:
                raise ModelNotFetched(missing, error) from error
        return resolve(self._settings.store, model_id)

    async def _on_model(self, model: TritonModel, job: Job, work: Callable[[], Awaitable[T]]) -> T:
        """`await work()` in the turn of a model, which all its names share."""
        key = str(model.package.key)

        async def end(task: asyncio.Task[Any]) -> None:
            while not task.done():
                await asyncio.wait({task}, timeout=_NOTICES_WITHIN)
                if not task.done() and job.works_on is not None:
                    logger.info("The process of %s is ended: nobody wants what it works on", job.works_on.model.name)
                    await job.works_on.end()

        result = await self._in_turn(key, job, work, end)
        self._store.used(key)
        return result

    async def _run(self, prepared: Run, request: RunRequest, job: Job) -> dict[str, Any]:
        started = time.perf_counter()
        prepared = await self._current(prepared, request, job)

        async def infer(loaded: Loaded) -> dict[str, Any]:
            job.tell("running")
            begun, opened = time.perf_counter(), loaded.opened
            with job.at_work(loaded):
                outputs = await loaded.worker.infer(loaded.model, prepared.arrays, prepared.parameters, job)
            now, size = time.perf_counter(), sum(output.nbytes for output in outputs)
            self._learn_seconds(str(prepared.model.package.key), now - begun)
            return await aside(size, prepared.result, job.task_id, outputs, now - started, opened.weight_format, opened.device)

        return await self._on_worker(prepared.model, infer, job)

    async def _on_worker(self, model: TritonModel, work: Work[T], job: Job) -> T:
        return await self.pool.run(model, work, job.raise_if_stopped, job.tell)

    def _learn_seconds(self, key: str, seconds: float) -> None:
        """A mean of a model's runs in which the last ones count most."""
        before = self._run_seconds.get(key, seconds)
        self._run_seconds[key] = before + (seconds - before) / 4

    async def _current(self, prepared: Run, request: RunRequest, job: Job) -> Run:
        """The run of the package that the id names now: in the queue it may have become another one. Raises RequestError."""
        if not job.has_waited:
            return prepared
        package, known = resolve(self._settings.store, request.model_id), prepared.model.package
        if (package.fingerprint, package.is_default) == (known.fingerprint, known.is_default):
            return prepared
        return await aside(job.size, Run.prepare, package, request, self._settings.trusted)

    async def _run_probe(self, image: np.ndarray) -> dict[str, Any]:
        package = resolve(self._settings.store, PROBE_MODEL)
        request = RunRequest(PROBE_MODEL, [image])
        prepared = Run.prepare(package, request, self._settings.trusted)
        return await self._run(prepared, request, Job(Caller(OWN_USER, "", ""), PROBE_MODEL, Progress(None)))

    async def _preload(self, model_id: str) -> None:
        """Have a model loaded that is never to be unloaded. Raises RequestError, StoreError, Busy, TritonUnavailable."""
        try:
            package = resolve(self._settings.store, model_id)
        except ModelNotFound:
            await self._store.fetch(model_id, caller=None)
            package = resolve(self._settings.store, model_id)
        model = triton_model(package, trusted=self._settings.trusted)
        self.pool.kept.always.add(model.name)
        if self.pool.ready and not self.pool.is_loaded(model):  # it waits for no worker: it is nobody's request
            await self.pool.run(model, _nothing, lambda: None)

    async def _description(self, model_id: str, caller: Caller) -> dict[str, Any]:
        """The description alone: of a stored model, or from the collection without its weights."""
        try:
            return run.description(resolve(self._settings.store, model_id), self._files_url)
        except ModelNotFound as missing:
            return {"rdf": (await self._in_collection(missing, caller)).rdf}

    def _details(self) -> str:
        return f"\n\n{traceback.format_exc()}" if self._settings.debug else ""

    async def _in_collection(self, missing: ModelNotFound, caller: Caller) -> Manifest:
        """What the collection's description says of a model that is not stored. Raises ModelNotFetched, Busy."""
        try:
            return await self._store.describe(missing.model_id, caller)
        except StoreError as error:
            raise ModelNotFetched(missing, error) from error
