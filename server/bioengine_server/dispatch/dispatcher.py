"""The one way of a request for a stored model.

    request -> package -> arrays that fit -> turn -> worker -> loaded -> run on the model's own Triton model -> result

Small and large requests, from whatever client, go this way. What goes wrong is an error with a code, which clients get as data.
"""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from bioengine_contract import message, run
from bioengine_contract.errors import BioEngineError
from bioengine_contract.manifest import Manifest
from bioengine_contract.package import Package
from bioengine_contract.package_errors import ModelNotFound
from bioengine_contract.request import RunRequest
from bioengine_contract.run import Run
from bioengine_contract.store import resolve
from bioengine_contract.triton_model import TritonModel, triton_model

from bioengine_server.access.caller import Caller
from bioengine_server.aside import aside
from bioengine_server.dispatch.errors import CallerGone, Fault, ModelNotFetched
from bioengine_server.dispatch.loaded import LoadedModels
from bioengine_server.dispatch.probe import PROBE_MODEL, ProbeLane, ReservedModel
from bioengine_server.dispatch.progress import Progress
from bioengine_server.dispatch.queue import Queue
from bioengine_server.settings import Settings
from bioengine_server.store.errors import StoreError
from bioengine_server.store.service import StoreService
from bioengine_server.workers.worker import Body, Opened, Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """Who asks, and who is told of it."""

    caller: Caller
    steps: Progress


class Dispatcher:
    """Decides about requests for the models of one store."""

    def __init__(self, settings: Settings, worker: Worker, store: StoreService, files_url: str) -> None:
        """
        Args:
            settings: of the server.
            worker: where models run.
            store: fetches models that are not stored.
            files_url: the URL under which this server gives the files that descriptions name; empty where it does not.
        """
        self._settings = settings
        self._worker = worker
        self._store = store
        self._files_url = files_url
        self.queue = Queue(settings.concurrency, settings.model_concurrency, settings.queue_size)
        self.loaded = LoadedModels(worker, settings.run_timeout)
        self._probe = ProbeLane(self._run_probe)

    def status(self) -> dict[str, Any]:
        """The loaded models, but for the server's own, and how many requests wait and run; for everybody to see."""
        models = [model for model in self.loaded.status() if model["name"] != PROBE_MODEL]
        return {"models": models, "requests": {"waiting": self.queue.waiting, "running": self.queue.running}}

    async def respond(self, request: RunRequest, call: Call) -> dict[str, Any]:
        """The answer to a request, with whatever goes wrong as data."""
        task_id = str(uuid.uuid4())
        try:
            return await self.answer(request, call, task_id)
        except BioEngineError as error:
            logger.info("%s: %.400r", call.caller, str(error))
            return run.failure(error, task_id, self._details())
        except Exception:
            logger.exception("Task %s failed", task_id)
            return run.failure(Fault(task_id), task_id, self._details())

    async def answer(self, request: RunRequest, call: Call, task_id: str) -> dict[str, Any]:
        """The result of a request, or its description alone.

        Raises RequestError, Busy, CallerGone, Stopping, ReservedModel, TritonUnavailable.
        """
        if request.is_plain and self._probe.is_asked(request.model_id, request.inputs, call.caller):
            return await self._probe.run()
        if request.inputs is None:
            return await self._description(request.model_id, call.caller)
        package = await self._package(request.model_id, call)
        if package.id == PROBE_MODEL:
            raise ReservedModel("inputs")
        prepared = await aside(message.size(request.inputs), Run.prepare, package, request, self._settings.trusted)
        result = await self._on_model(prepared.model, call, lambda: self._run(prepared, request, call.steps, task_id))
        return {**result, **run.description(package, self._files_url)} if "return_rdf" in request.options else result

    async def forward(self, model: TritonModel, call: Call, version: str, body: Body, headers: Mapping[str, str]) -> Any:
        """Triton's answer to an inference request of its own protocol, with the model loaded.

        Raises RequestError, Busy, CallerGone, TritonUnavailable, and what `body` raises.
        """

        async def work(_: Opened) -> Any:
            return await self._worker.forward(model, version, body, headers)

        return await self._on_model(model, call, lambda: self.loaded.run(model, work))

    def stored(self, model_id: str, argument: str = "model_name") -> TritonModel:
        """The model of the store that an id names, for a client to run. Raises RequestError, ReservedModel.

        Args:
            model_id: as the client named it.
            argument: by which he did.
        """
        package = resolve(self._settings.store, model_id)
        if package.id == PROBE_MODEL:
            raise ReservedModel(argument)
        return triton_model(package, trusted=self._settings.trusted)

    async def model(self, model_id: str, call: Call) -> TritonModel:
        """The same, downloaded where it is not stored. Raises RequestError, Busy."""
        return triton_model(await self._package(model_id, call), trusted=self._settings.trusted)

    def stored_config(self, model_id: str) -> dict[str, Any]:
        """Triton's configuration of a stored model. Raises RequestError."""
        package = resolve(self._settings.store, model_id)
        model = triton_model(package, trusted=self._settings.trusted)
        return {"name": model.name, **package.manifest.triton_config}

    async def config_in_collection(self, missing: ModelNotFound, caller: Caller) -> dict[str, Any]:
        """Triton's configuration of a model that is not stored, from its description alone. Raises ModelNotFetched, Busy."""
        manifest = await self._in_collection(missing, caller)
        return {"name": manifest.id, **manifest.triton_config}

    async def in_turn(self, model: str, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        """`await work()` when the turn of a request has come, unless its caller has gone meanwhile.

        Args:
            model: whose turns they are.
            call: who asks.
            work: what is to be done.

        Raises Busy, CallerGone, Stopping.
        """

        async def if_wanted() -> T:
            if not call.caller.connected():
                raise CallerGone(call.caller)
            return await work()

        return await self.queue.run(model, if_wanted, call.steps.queued, call.caller.key)

    async def _package(self, model_id: str, call: Call) -> Package:
        """The package that an id names, which is downloaded where it is not stored. Raises RequestError, Busy."""
        try:
            return resolve(self._settings.store, model_id)
        except ModelNotFound as missing:
            call.steps.tell("downloading")
            try:
                await self._store.fetch(missing.model_id, call.caller)
            except StoreError as error:
                raise ModelNotFetched(missing, error) from error
        return resolve(self._settings.store, model_id)

    async def _on_model(self, model: TritonModel, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        """`await work()` in the turn of a model, which all its names share."""
        result = await self.in_turn(str(model.package.key), call, work)
        self._store.used(str(model.package.key))
        return result

    async def _run(self, prepared: Run, request: RunRequest, steps: Progress, task_id: str) -> dict[str, Any]:
        started = time.perf_counter()
        prepared = await self._current(prepared, request)
        if not self.loaded.is_loaded(prepared.model):
            steps.tell("loading")

        async def infer(opened: Opened) -> dict[str, Any]:
            steps.tell("running")
            outputs = await self._worker.infer(prepared.model, prepared.arrays, prepared.parameters)
            seconds, size = time.perf_counter() - started, sum(output.nbytes for output in outputs)
            return await aside(size, prepared.result, task_id, outputs, seconds, opened.weight_format, opened.device)

        return await self.loaded.run(prepared.model, infer)

    async def _current(self, prepared: Run, request: RunRequest) -> Run:
        """The run of the package that the id names now: in the queue it may have become another one. Raises RequestError."""
        package, known = resolve(self._settings.store, request.model_id), prepared.model.package
        if (package.fingerprint, package.is_default) == (known.fingerprint, known.is_default):
            return prepared
        return await aside(message.size(request.inputs), Run.prepare, package, request, self._settings.trusted)

    async def _run_probe(self, image: np.ndarray) -> dict[str, Any]:
        package = resolve(self._settings.store, PROBE_MODEL)
        request = RunRequest(PROBE_MODEL, [image])
        prepared = Run.prepare(package, request, self._settings.trusted)
        return await self._run(prepared, request, Progress(None), str(uuid.uuid4()))

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
