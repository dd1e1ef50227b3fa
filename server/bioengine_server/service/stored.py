"""Requests about models of the store: resolved, downloaded where they are not stored, admitted, and run by the router.

    id -> question -> (download) -> place of the model -> run -> result

A question runs no model and has a lane of its own, in which callers take turns.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from bioengine_server.errors import (
    BadModelId,
    CallerGone,
    ModelNotLoaded,
    NoSuchModel,
    RefusedArgument,
    StoreError,
    TritonUnavailable,
)
from bioengine_server.service.admission import Admission
from bioengine_server.service.caller import Caller
from bioengine_server.service.known import KnownModel, KnownModels
from bioengine_server.service.lanes import Lane, LaneLimits, SharedWork
from bioengine_server.service.probe import PROBE_MODEL, ProbeLane, ReservedModel, names_probe
from bioengine_server.service.progress import Progress
from bioengine_server.service.run_request import MAX_ID, MAX_SHOWN, RunRequest
from bioengine_server.store import layout
from bioengine_server.store.service import StoreService
from bioengine_server.triton.api import ROUTER, InferOptions, TritonError
from bioengine_server.triton.router import Router
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_QUESTION_PATIENCE = 60.0  # seconds that a question may wait for its turn

RouterAnswer = tuple[dict[str, Any], dict[str, Any]]
"""A result, and Triton's response info."""

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """Who asks, how, and who is told of it."""

    caller: Caller
    options: InferOptions
    steps: Progress


class StoredModels:
    """The models of one store, on the Triton that reads it."""

    def __init__(self, router: Router, admission: Admission, store: StoreService) -> None:
        """
        Args:
            router: of the Triton.
            admission: the door in front of it.
            store: fetches models that are not stored.
        """
        self._router = router
        self._admission = admission
        self._store = store
        self._known = KnownModels()
        self._probe = ProbeLane(router)
        queue = admission.queue_size
        self._questions = SharedWork(
            Lane(
                LaneLimits(
                    places=1,
                    queue=queue,
                    caller_places=1,
                    caller_queue=max(queue // 2, 1),
                    anonymous_places=1,
                    patience=_QUESTION_PATIENCE,
                )
            )
        )

    async def run(self, request: RunRequest, call: Call) -> RouterAnswer:
        """The result of a run, or the description alone. Raises Busy, CallerGone, Stopping, ReservedModel, TritonUnavailable."""
        if request.is_plain and self._probe.is_asked(request.model_id, request.inputs, call.caller):
            return await self._probe.run()
        if request.inputs is None:
            return await self._described(request, call.caller)
        model_id, state = request.model_id, self._store.state()
        model = self._known.get(model_id, state)
        if model is None:
            answer, info = await self.resolved_or_fetched(model_id, call.caller, call.steps)
            if "id" not in answer:
                return answer, info
            if answer["id"] == PROBE_MODEL:
                raise ReservedModel("inputs")
            model = KnownModel(f"{answer['id']}/{answer['version']}", state, answer.get("triton_model"))
            self._known.add(model_id, model)
        # All names of one model share its places.
        result, info = await self.in_place(model.place, call, lambda: self._loaded_and_run(request, call, model))
        if result.get("success"):
            self._store.used(model.place)
        return result, info

    async def in_place(self, model: str, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        """`await work()` when the request's turn has come, unless its caller has gone meanwhile. Raises Busy, CallerGone."""

        async def if_wanted() -> T:
            if not call.caller.connected():
                raise CallerGone(call.caller)
            return await work()

        return await self._admission.run(model, if_wanted, call.steps.queued)

    @asynccontextmanager
    async def admitted(self, model_name: str, model_id: str, caller: Caller) -> AsyncIterator[str]:
        """Hold a place for an inference that goes to Triton itself; yields the name of the Triton model, loaded.

        Args:
            model_name: a bioimage.io model's id, the router, or another model of Triton.
            model_id: for the router, the model that the request is about.
            caller: who asks.

        Raises NoSuchModel, ModelNotLoaded, ReservedModel, Busy, TritonUnavailable.
        """
        if names_probe(model_name):
            raise ReservedModel("model_name")
        if model_name == ROUTER:
            answer, _ = await self.resolved_or_fetched(model_id, caller)
            if answer.get("id") == PROBE_MODEL:
                raise ReservedModel("model_id")
            # What is wrong with the id is for the router to say, as data.
            place = f"{answer['id']}/{answer['version']}" if "id" in answer else f"triton:{ROUTER}"
            async with self._admission.admit(place):
                yield ROUTER
            return
        answer, _ = await self.question("resolve", model_name, caller)
        if "id" not in answer and await self._router.api.is_ready(model_name):
            async with self._admission.admit(f"triton:{model_name}"):
                yield model_name
            return
        if "id" not in answer:
            answer, _ = await self.resolved_or_fetched(model_name, caller)
        if "id" not in answer:
            raise NoSuchModel(answer["error"])
        if answer["id"] == PROBE_MODEL:
            raise ReservedModel("model_name")
        place = f"{answer['id']}/{answer['version']}"
        async with self._admission.admit(place):
            loaded, _ = await self._router.ask({"operation": "load", "model_id": model_name})
            if "name" not in loaded:
                raise ModelNotLoaded(loaded["error"])
            yield loaded["name"]
            self._store.used(place)

    async def config(self, model_name: Any, caller: Caller) -> RouterAnswer:
        """The router's answer to the question for Triton's configuration of a model, which has `config` where it knows one."""
        if not isinstance(model_name, str) or model_name == ROUTER:
            return {}, {}
        return await self.question("config", model_name, caller)

    async def config_of_description(self, answer: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Triton's configuration of a model that is not stored, from its description alone. Raises RefusedArgument, Busy."""
        try:
            manifest = await self._store.describe(answer["not_stored"], caller)
        except StoreError as reason:
            raise RefusedArgument("model_name", f"{answer['error']} {reason}") from reason
        return {"name": manifest.id, **manifest.triton_config}

    async def _loaded_and_run(self, request: RunRequest, call: Call, model: KnownModel) -> RouterAnswer:
        """The run; for those who want to be told, after a request of its own that loads the model."""
        if call.steps.wanted:
            about = {"model_id": request.model_id}
            about |= {key: request.options[key] for key in ("weight_format",) if key in request.options}
            is_loaded, _ = await self._router.ask({"operation": "is_loaded", **about})
            loaded: dict[str, Any] = {"name": ""}
            if is_loaded.get("loaded") is False:
                call.steps.tell("loading")
                loaded, _ = await self._router.ask({"operation": "load", **about})
            if "name" in loaded and "loaded" in is_loaded:  # what is wrong otherwise, the run itself says
                call.steps.tell("running")
        to_router = request.to_router()
        # In the queue the model may have become another one.
        is_plain = call.options == InferOptions() and self._store.state() == model.state
        if is_plain and (inputs := model.plain_inputs(to_router)) is not None:
            try:
                if (answer := await model.run(self._router, request.model_id, inputs)) is not None:
                    return answer
            except (TritonError, TritonUnavailable) as error:
                logger.debug("%s failed, and is run once more through the router: %.300r", model.place, str(error))
        result, info = await self._router.ask(to_router, call.options)
        model.ran(to_router, result, info)
        return result, info

    async def _described(self, request: RunRequest, caller: Caller) -> RouterAnswer:
        """The description alone: of a stored model, or from the collection without its weights."""
        answer, info = await self.question("describe", request.model_id, caller, request.files_url)
        if "not_stored" not in answer:
            return answer, info
        try:
            return {"rdf": (await self._store.describe(answer["not_stored"], caller)).rdf}, info
        except StoreError as error:
            return _failure(answer, error), info

    async def resolved_or_fetched(self, model_id: str, caller: Caller, steps: Progress = Progress(None)) -> RouterAnswer:
        """`{"id", "version"}` of the package that `model_id` names, which is downloaded where it is not stored."""
        answer, info = await self.question("resolve", model_id, caller)
        if "not_stored" not in answer:
            return answer, info
        steps.tell("downloading")
        try:
            await self._store.fetch(answer["not_stored"], caller)
        except StoreError as error:
            return _failure(answer, error), info
        return await self.question("resolve", model_id, caller)

    async def question(self, kind: str, model_id: str, caller: Caller, files_url: str = "") -> RouterAnswer:
        """The answer to a request that runs no model: "resolve", "config" or "describe". Raises Busy, TritonUnavailable.

        Args:
            files_url: what "describe" is told, see `RunRequest`.
        """
        if len(model_id) > MAX_ID:
            model_id = f"{model_id[:MAX_SHOWN]}…"  # no id, for the router's error to show
        operation = RunRequest(model_id, None, files_url=files_url).to_router() if kind == "describe" else {"operation": kind}
        request = {**operation, "model_id": model_id}
        # Who asks the same of the same state of the store gets the same answer.
        key = (kind, model_id, self._store.state())
        answer, info = await self._questions.once(key, caller, lambda: self._router.ask(request))
        return _about(model_id, answer), info


def _about(model_id: str, answer: dict[str, Any]) -> dict[str, Any]:
    """`answer`, without `not_stored` where that is another model than was asked about: models run beside the router, and no
    answer decides what the server downloads."""
    if "not_stored" not in answer:
        return answer
    with contextlib.suppress(BadModelId):
        # The old spelling is the router's (`bioengine_runner.store.resolve`).
        asked = model_id.removeprefix("/models/").removesuffix("/rdf.yaml") if model_id.startswith("/models/") else model_id
        if answer["not_stored"] == layout.check_model_id(asked):
            return answer
    logger.warning("Triton's answer about %s is about another model", shown(model_id))
    return {key: value for key, value in answer.items() if key != "not_stored"}


def _failure(answer: dict[str, Any], error: StoreError) -> dict[str, Any]:
    """The router's answer for a model that is not stored, and why the collection did not help."""
    return {"task_id": answer.get("task_id", ""), "success": False, "error": f"{answer['error']} {error}"}
