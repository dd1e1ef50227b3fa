"""`triton-client`: the service that clients call.

    execute: arguments -> checked -> admitted -> Triton -> {"result": ..., "__info__": ...}

Where models of the store are concerned, whatever goes wrong comes back as data, `{"success": False, "error": str}`;
arguments that are refused raise, naming the argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bioengine_server.access.rules import Access
from bioengine_server.errors import (
    Busy,
    CallerGone,
    ModelNotLoaded,
    NoSuchModel,
    RefusedArgument,
    Stopping,
    StoreError,
    TooLarge,
    TritonUnavailable,
)
from bioengine_server.service.admission import Admission
from bioengine_server.service.caller import Caller
from bioengine_server.service.known import KnownModel, KnownModels
from bioengine_server.service.progress import Progress
from bioengine_server.service.tensors import checked_outputs, from_triton, to_triton
from bioengine_server.store.service import StoreService
from bioengine_server.triton.api import ROUTER, InferOptions, InferResult, TritonApi, TritonError
from bioengine_server.triton.router import Router

logger = logging.getLogger(__name__)

SERVICE_ID = "triton-client"

PROBE_MODEL = "bioengine-probe"  # which the readiness probe runs, shipped with the project
RESERVED_ROUTERS = 2  # instances that no admitted request takes: one for questions about models, one for the probe

_SERIALIZATIONS = ("triton", "imjoy")

RouterAnswer = tuple[dict[str, Any], dict[str, Any]]
"""A result, and Triton's response info."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Call:
    """Who asks, how, and who is told of it."""

    caller: Caller
    options: InferOptions
    steps: Progress


class TritonClient:
    """The service, in front of one Triton. The same in the server process and in a process of its own."""

    def __init__(self, router: Router, access: Access, admission: Admission, store: StoreService, public_url: str) -> None:
        """
        Args:
            router: the router of the Triton to use.
            access: says who may use it, and how much of it.
            admission: the door in front of it.
            store: fetches models that are not stored, into the store that this Triton reads.
            public_url: the Hypha server's URL, which `get_config` tells.
        """
        self._router = router
        self.access = access
        self._admission = admission
        self._store = store
        self._public_url = public_url
        self._probes = asyncio.Semaphore(1)
        self._known = KnownModels()
        self._is_connected: Callable[[str, str], bool] | None = None

    def watch_clients(self, is_connected: Callable[[str, str], bool]) -> None:
        """Have requests of clients that went away not run. `is_connected(workspace, client)` is Hypha's own answer."""
        self._is_connected = is_connected

    def stop(self) -> None:
        """Answer the requests that run or wait, for there will be no results any more."""
        self._admission.close()

    def definition(self) -> dict[str, Any]:
        """What is registered with Hypha."""
        return {
            "id": SERVICE_ID,
            "name": "BioEngine",
            "type": "triton-client",
            "description": "Runs bioimage.io models by id, and other models of this server's Triton.",
            "config": {"visibility": "public", "require_context": True},
            "execute": self.execute,
            "get_config": self.get_config,
        }

    async def execute(
        self,
        /,
        inputs: Any = None,
        model_name: Any = None,
        serialization: Any = "triton",
        select_outputs: Any = None,
        decode_json: bool = False,
        decode_bytes: bool = False,
        model_version: Any = "",
        request_id: Any = "",
        sequence_id: Any = 0,
        sequence_start: bool = False,
        sequence_end: bool = False,
        priority: Any = 0,
        timeout: Any = None,
        compression_algorithm: Any = None,
        cache_config: bool = True,
        verbose: bool = False,
        progress: Any = None,
        server_url: Any = None,
        context: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        """Run a model.

        Args:
            inputs: for `bioengine-model-runner` (with serialization "imjoy"): a list with one dict, `{"model_id": str,
                "inputs": [array, ...], "return_rdf": any, "weight_format": str}`; for other models of Triton: one array,
                str or dict (as JSON) for each of its inputs.
            model_name: the Triton model.
            serialization: "imjoy" or "triton"; for `bioengine-model-runner` "imjoy" alone.
            select_outputs: names of the outputs wanted, None for all.
            decode_json: decode BYTES outputs as JSON.
            decode_bytes: decode BYTES outputs as text.
            model_version, request_id, sequence_id, sequence_start, sequence_end, priority, timeout,
            compression_algorithm: of Triton's inference request. No compression unless asked for.
            cache_config: remember the model's configuration between calls.
            verbose: log the call.
            progress: a function, called with `{"state": str, ...}` while the call lasts: "queued" with `position` (1 is next,
                0 need not wait), "downloading", "loading", "running". Errors of its own are ignored.
            server_url: refused; this service speaks to its own Triton only.
            context: given by Hypha.

        Returns the outputs by name and `"__info__"`, Triton's response info. For `bioengine-model-runner` that is
        `"result"`: `{"task_id": str, "outputs": [array, ...], "execution_time": seconds, "success": True}` or
        `{"success": False, "error": str}`.

        Raises NoAccess, TooManyRequests; RefusedArgument; TypeError for an input of a wrong dtype; for models other than the
        router TritonError, TritonUnavailable, Busy, CallerGone, Stopping, TooLarge.
        """
        caller = self._caller(context)
        _refuse(server_url, unknown)
        if serialization not in _SERIALIZATIONS:
            raise RefusedArgument("serialization", f"{serialization!r} is not 'imjoy' or 'triton'.")
        if model_name == ROUTER and serialization != "imjoy":
            raise RefusedArgument("serialization", f"{ROUTER!r} takes 'imjoy' only: say serialization=\"imjoy\".")
        options = InferOptions(
            model_version=str(model_version) if isinstance(model_version, int) else (model_version or ""),
            request_id=request_id or "",
            sequence_id=sequence_id or 0,
            sequence_start=bool(sequence_start),
            sequence_end=bool(sequence_end),
            priority=priority or 0,
            timeout=timeout,
            compression_algorithm=compression_algorithm,
        )
        logger.log(logging.INFO if verbose else logging.DEBUG, "%s runs %s", caller, model_name)
        async with self.access.request(caller), Progress(progress) as steps:
            call = _Call(caller, options, steps)
            if model_name == ROUTER:
                return await self._run_stored_model(inputs, call)
            config = await self._triton_config(model_name, options.model_version, use_cache=cache_config)
            outputs = checked_outputs(select_outputs, config)
            self.access.check_size(inputs, caller)
            tensors = to_triton(inputs, config, serialization)

            async def infer() -> InferResult:
                steps.tell("running")
                return await self._router.api.infer(model_name, tensors, outputs, options)

            result = await self._in_place(f"triton:{model_name}", call, infer)
            return {**from_triton(result.outputs, serialization, decode_json, decode_bytes), "__info__": result.info}

    async def get_config(
        self,
        /,
        model_name: Any = None,
        model_version: Any = "",
        verbose: bool = False,
        server_url: Any = None,
        context: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        """Triton's configuration of a model, loaded or not, with `server_url` and `model_name`.

        Raises NoAccess, TooManyRequests, Busy, RefusedArgument, TritonError for a model that there is not, TritonUnavailable.
        """
        caller = self._caller(context)
        _refuse(server_url, unknown)
        async with self.access.request(caller):
            config = await self._config(model_name, str(model_version or ""), caller)
            return {**config, "server_url": f"{self._public_url}/triton", "model_name": model_name}

    @property
    def triton(self) -> TritonApi:
        """The Triton that this service runs models on."""
        return self._router.api

    @contextlib.asynccontextmanager
    async def admit_for_triton(self, model_name: str, model_id: Any, caller: Caller) -> AsyncIterator[str]:
        """Hold a place for an inference that goes to Triton itself; yields the name of the Triton model, loaded.

        Args:
            model_name: a bioimage.io model's id, the router, or another model of Triton.
            model_id: for the router, the model that the request is about.
            caller: who asks.

        Raises NoAccess, TooManyRequests, NoSuchModel, ModelNotLoaded, Busy, TritonUnavailable.
        """
        logger.debug("%s infers with %s", caller, model_name)
        async with self.access.request(caller), self._admitted(model_name, model_id, caller) as name:
            yield name

    @contextlib.asynccontextmanager
    async def _admitted(self, model_name: str, model_id: Any, caller: Caller) -> AsyncIterator[str]:
        if model_name == ROUTER:
            answer, _ = await self._resolved_or_fetched(model_id, caller)
            # What is wrong with the id is for the router to say, as data.
            place = f"{answer['id']}/{answer['version']}" if "id" in answer else f"triton:{ROUTER}"
            async with self._admission.admit(place):
                yield ROUTER
            return
        question = {"operation": "resolve", "model_id": model_name}
        answer, _ = await self._question(question)
        if "id" not in answer and await self.triton.is_ready(model_name):
            async with self._admission.admit(f"triton:{model_name}"):
                yield model_name
            return
        if "id" not in answer:
            answer, _ = await self._resolved_or_fetched(model_name, caller)
        if "id" not in answer:
            raise NoSuchModel(answer["error"])
        place = f"{answer['id']}/{answer['version']}"
        async with self._admission.admit(place):
            loaded, _ = await self._router.ask({"operation": "load", "model_id": model_name})
            if "name" not in loaded:
                raise ModelNotLoaded(loaded["error"])
            yield loaded["name"]
            self._store.used(place)

    def _caller(self, context: dict[str, Any] | None) -> Caller:
        """The caller; whether it is still there is known of those who are connected to the Hypha of this process.

        Raises NoAccess.
        """
        caller, is_connected = Caller.from_context(context), self._is_connected
        self.access.check(caller)
        if is_connected is None or not is_connected(caller.workspace, caller.client):
            return caller
        return replace(caller, connected=lambda: is_connected(caller.workspace, caller.client))

    async def _run_stored_model(self, inputs: Any, call: _Call) -> dict[str, Any]:
        """A request of the router: what goes wrong is data."""
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise RefusedArgument("inputs", 'expected a list with one dict, [{"model_id": "affable-shark", "inputs": [image]}].')
        request = {key: value for key, value in inputs[0].items() if key != "operation"}
        try:
            self.access.check_size(request, call.caller)
            result, info = await self._answered(request, call)
        except (Busy, CallerGone, Stopping, TooLarge, TritonUnavailable) as error:
            result, info = {"success": False, "error": str(error)}, {"model_name": ROUTER}
        if result.get("success") is False:
            logger.info("%s: %s", call.caller, result["error"])
        return {"result": result, "__info__": info}

    async def _answered(self, request: dict[str, Any], call: _Call) -> RouterAnswer:
        model_id: Any = request.get("model_id")
        if model_id == PROBE_MODEL:
            async with self._probes:
                return await self._router.ask(request, call.options)
        if request.get("inputs") is None:
            return await self._described(request, call)
        state = self._store.state()
        model = self._known.get(model_id, state)
        if model is None:
            answer, info = await self._resolved_or_fetched(model_id, call.caller, call.steps)
            if "id" not in answer:
                return answer, info
            model = KnownModel(f"{answer['id']}/{answer['version']}", state, answer.get("triton_model"))
            self._known.add(model_id, model)
        # All names of one model share its places.
        result, info = await self._in_place(model.place, call, lambda: self._loaded_and_run(request, call, model))
        if result.get("success"):
            self._store.used(model.place)
        return result, info

    async def _in_place(self, model: str, call: _Call, work: Callable[[], Awaitable[T]]) -> T:
        """`await work()` when the request's turn has come, unless its caller has gone meanwhile. Raises Busy, CallerGone."""

        async def if_wanted() -> T:
            if not call.caller.connected():
                raise CallerGone(call.caller)
            return await work()

        return await self._admission.run(model, if_wanted, call.steps.queued)

    async def _loaded_and_run(self, request: dict[str, Any], call: _Call, model: KnownModel) -> RouterAnswer:
        """The run; for those who want to be told, after a request of its own that loads the model."""
        if call.steps.wanted:
            call.steps.tell("loading")
            wanted: dict[str, Any] = {key: request[key] for key in ("model_id", "weight_format") if key in request}
            loaded, _ = await self._router.ask({"operation": "load", **wanted})
            if "name" in loaded:  # what is wrong otherwise, the run itself says
                call.steps.tell("running")
        # In the queue the model may have become another one.
        is_plain = call.options == InferOptions() and self._store.state() == model.state
        if is_plain and (inputs := model.plain_inputs(request)) is not None:
            try:
                return await model.run(self._router, request["model_id"], inputs)
            except (TritonError, TritonUnavailable) as error:
                logger.debug("%s failed, and is run once more through the router: %s", model.place, error)
        result, info = await self._router.ask(request, call.options)
        model.ran(request, result, info)
        return result, info

    async def _described(self, request: dict[str, Any], call: _Call) -> RouterAnswer:
        """The description alone: of a stored model, or from the collection without its weights."""
        answer, info = await self._question(request, call.options)
        if "not_stored" not in answer:
            return answer, info
        try:
            return {"rdf": (await self._store.describe(answer["not_stored"], call.caller)).rdf}, info
        except StoreError as error:
            return _failure(answer, error), info

    async def _resolved_or_fetched(self, model_id: Any, caller: Caller, steps: Progress = Progress(None)) -> RouterAnswer:
        """`{"id", "version"}` of the package that `model_id` names, which is downloaded where it is not stored."""
        question = {"operation": "resolve", "model_id": model_id}
        answer, info = await self._question(question)
        if "not_stored" not in answer:
            return answer, info
        steps.tell("downloading")
        try:
            await self._store.fetch(answer["not_stored"], caller)
        except StoreError as error:
            return _failure(answer, error), info
        return await self._question(question)

    async def _question(self, request: dict[str, Any], options: InferOptions = InferOptions()) -> RouterAnswer:
        """A request that runs no model, in a lane of its own. Raises Busy."""
        async with self._admission.ask():
            return await self._router.ask(request, options)

    async def _config(self, model_name: Any, model_version: str, caller: Caller) -> dict[str, Any]:
        """Triton's configuration of a model: of a bioimage.io model, stored or not, or of another model of Triton."""
        answer = {} if model_name == ROUTER else (await self._question({"operation": "config", "model_id": model_name}))[0]
        if "config" in answer:
            return dict(answer["config"])
        try:
            return await self._triton_config(model_name, model_version, use_cache=False)
        except RefusedArgument as error:
            if "not_stored" not in answer:
                raise
            try:
                manifest = await self._store.describe(answer["not_stored"], caller)
            except StoreError as reason:
                raise RefusedArgument("model_name", f"{answer['error']} {reason}") from error
            return {"name": manifest.id, **manifest.triton_config}

    async def _triton_config(self, model_name: Any, model_version: str, use_cache: bool) -> dict[str, Any]:
        if model_name is None:
            raise RefusedArgument("model_name", f"it is missing. For bioimage.io models it is {ROUTER!r}.")
        try:
            return await self._router.api.model_config(model_name, model_version, from_cache=use_cache)
        except TritonError as error:
            raise RefusedArgument(
                "model_name",
                f"this server's Triton has no model {model_name!r}. To run a bioimage.io model, "
                f"name {ROUTER!r} and give the model's id in the inputs.",
            ) from error


def _failure(answer: dict[str, Any], error: StoreError) -> dict[str, Any]:
    """The router's answer for a model that is not stored, and why the collection did not help."""
    return {"task_id": answer.get("task_id", ""), "success": False, "error": f"{answer['error']} {error}"}


def _refuse(server_url: Any, unknown: dict[str, Any]) -> None:
    """Refuse what clients of the public server could say and must not here, and what nobody knows."""
    if server_url is not None:
        raise RefusedArgument("server_url", "this service speaks to its own Triton only. Leave it out.")
    for name in unknown:
        raise RefusedArgument(name, "there is no such argument. Check its spelling.")
