"""`bioengine-model-runner`: the Triton model that clients name.

    request {model_id, inputs, ...} -> package -> arrays that fit -> the package's own Triton model (BLS) -> result

Runs as many light instances, since Triton gives a Python process one request at a time: nothing heavy is imported here.

Input `kwargs` (BYTES): MessagePack of a dict (`bioengine_runner.request.message`) with `model_id`, `inputs`, `return_rdf`
(by presence), `weight_format`, `axes`, `tile` and, from the server, `shared` (`bioengine_runner.request.shared`) and `files_url`
(`bioengine_runner.store.shown_files`). Output `result` (BYTES), encoded the same way:
`{"task_id": str, "outputs": [array, ...], "execution_time": seconds, "success": True, "weight_format": str, "device": str}`,
and `"warnings": [str, ...]` where there is something to say of the values,
`{"success": False, "error": str}`, with `"not_stored": id` where the store has no such model, or `{"rdf": dict}` where
`inputs` is None or absent.

With `operation` instead, for the server's own use: `resolve` (-> `{"id", "version"}`, and `"triton_model"`, see `_plain`),
`config` (-> `{"config": Triton's model configuration}`), `is_loaded` (-> `{"loaded": bool}`),
`load` (-> `{"name": the Triton model, loaded}`), `end_run` (ends a run
that took too long, and says so) and `status` (-> `{"dead_routers": [instance, ...]}`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
import uuid
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bioengine_runner.errors import (
    BadRequest,
    ModelFailed,
    ModelNotFound,
    ModelProcessDied,
    RequestError,
    RunTookTooLong,
    UnknownKey,
    shorten,
    unmark,
)
from bioengine_runner.loading.loader import Loader
from bioengine_runner.loading.registry import Registry
from bioengine_runner.loading.triton_model import TritonModel, triton_model
from bioengine_runner.request import message
from bioengine_runner.request.shared import SharedFolder, stand_in
from bioengine_runner.rundir import Boot
from bioengine_runner.store.manifest import Manifest
from bioengine_runner.store.resolve import resolve
from bioengine_runner.store.shown_files import rdf_with_addresses
from bioengine_runner.tensors.finite import warnings_of_inputs, warnings_of_outputs
from bioengine_runner.tensors.fit import fit_inputs, fit_tile
from bioengine_runner.tensors.output import READABLE, readable
from bioengine_runner.utf8 import use_utf8

logger = logging.getLogger(__name__)

# Of a request for a run; the server's own have `operation` as well.
_KEYS = ("model_id", "inputs", "weight_format", "axes", "tile", "return_rdf")


class Router:
    """One instance of the router, as Triton's Python backend calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s runner: %(message)s")
        use_utf8()
        self._boot = Boot.from_environment()
        self._registry = Registry(self._boot)
        self._registry.record_process(f"router:{args['model_instance_name']}")
        self._loader = Loader(self._boot, self._registry, pb_utils)

    async def execute(self, requests: list[Any]) -> list[Any]:
        return [await self._respond(request) for request in requests]

    async def _respond(self, request: Any) -> Any:
        task_id = str(uuid.uuid4())
        try:
            data = pb_utils.get_input_tensor_by_name(request, "kwargs").as_numpy()
            result = await self._answer(data.flat[0] if data.size == 1 else b"", task_id)
        except Exception:
            # An exception would reach the server as a failure of this instance, which it repairs.
            result = message.encode(self._fault(task_id))
        return pb_utils.InferenceResponse([pb_utils.Tensor("result", np.array([result], dtype=object))])

    async def _answer(self, data: bytes, task_id: str) -> bytes:
        try:
            request = message.decode(data, self._boot.shared_tensors)
        except BadRequest as error:
            return message.encode(self._failed(error, task_id))
        shared = None
        if isinstance(request, dict):
            shared = SharedFolder.named(self._boot.shared_tensors, request.pop("shared", None))
        return message.encode(await self._result(request, task_id, shared), shared)

    async def _result(self, request: Any, task_id: str, shared: SharedFolder | None) -> dict[str, Any]:
        try:
            if not isinstance(request, dict):
                raise BadRequest(f"The request is {shorten(request)}. Expected a dict with model_id and inputs.")
            if "operation" in request:
                return self._operate(request)
            return await self._run(request, task_id, shared)
        except ModelNotFound as error:
            # The server may find it in the collection, and ask again.
            return {"task_id": task_id, "success": False, "error": str(error), "not_stored": error.model_id}
        except RequestError as error:
            return self._failed(error, task_id)
        except Exception:
            return self._fault(task_id)

    def _fault(self, task_id: str) -> dict[str, Any]:
        """What the client gets for an exception that is no error of the request's; the log has all of it."""
        logger.exception("Task %s failed", task_id)
        text = f"The server failed while it worked on this request. Ask its admin to look for task {task_id} in its log."
        return {"task_id": task_id, "success": False, "error": text + self._traceback()}

    def _failed(self, error: RequestError, task_id: str) -> dict[str, Any]:
        return {"task_id": task_id, "success": False, "error": str(error) + self._traceback()}

    def _traceback(self) -> str:
        return f"\n\n{traceback.format_exc()}" if self._boot.debug else ""

    async def _run(self, request: dict[str, Any], task_id: str, shared: SharedFolder | None) -> dict[str, Any]:
        files_url = request.pop("files_url", None)
        if unknown := next((key for key in request if key not in _KEYS), None):
            raise UnknownKey(unknown, _KEYS)
        manifest = resolve(self._boot.store, request.get("model_id"))
        inputs = request.get("inputs")
        if inputs is None:
            return {"rdf": rdf_with_addresses(manifest, files_url)}
        model = triton_model(manifest, request.get("weight_format"), self._boot.trusted)
        warnings: list[str] = []
        arrays = fit_inputs(manifest, inputs, request.get("axes"), warnings)
        tile = fit_tile(manifest, request.get("tile"))
        spoilt = warnings_of_inputs(dict(zip((spec.id for spec in manifest.inputs), arrays)))
        started = time.perf_counter()
        outputs = await self._infer(model, arrays, {} if tile is None else {"tile": json.dumps(tile)}, shared)
        result: dict[str, Any] = {
            "task_id": task_id,
            "outputs": [readable(output) for output in outputs],
            "execution_time": time.perf_counter() - started,
            "success": True,
            **self._registry.opened(f"model:{model.name}"),
        }
        results = dict(zip((spec.id for spec in manifest.outputs), outputs))
        if warnings := [*warnings, *spoilt, *warnings_of_outputs(results, bool(spoilt))]:
            result["warnings"] = warnings
        if "return_rdf" in request:
            result["rdf"] = rdf_with_addresses(manifest, files_url)
        return result

    async def _infer(
        self, model: TritonModel, arrays: list[np.ndarray | None], parameters: dict[str, str], shared: SharedFolder | None
    ) -> list[np.ndarray]:
        """Run `model`; where its process has died, or dies meanwhile, heal it and try once more."""
        generation = self._loader.ensure(model)
        ids, names = [spec.id for spec in model.manifest.inputs], [spec.id for spec in model.manifest.outputs]
        if shared is not None:
            by_file = [None if array is None else self._shared(shared, array, number) for number, array in enumerate(arrays)]
            parameters = {**parameters, "shared": json.dumps({"folder": shared.name, "inputs": by_file})}
            arrays = [array if array is None or file is None else stand_in(array) for array, file in zip(arrays, by_file)]
        for last in (False, True):
            inputs = [pb_utils.Tensor(id, np.ascontiguousarray(array)) for id, array in zip(ids, arrays) if array is not None]
            request = pb_utils.InferenceRequest(
                model_name=model.name, requested_output_names=names, inputs=inputs, parameters=parameters
            )
            response = await self._wait(request, model)
            if not response.has_error():
                return [
                    shared.read(file)
                    if shared is not None and shared.has(file := f"output-{number}")
                    else pb_utils.get_output_tensor_by_name(response, name).as_numpy()
                    for number, name in enumerate(names)
                ]
            text = response.error().message()
            if reason := unmark(text):
                raise RequestError(reason)
            logger.warning("%s: %s", model.name, text)
            if self._loader.is_alive(model) and "is not ready" not in text and "not healthy" not in text:
                raise ModelFailed(model.manifest.id, "it gave no reason; the server's log has more")
            ended = self._loader.how_it_ended(model)
            if not last:
                generation = self._loader.heal(model, generation)
        raise ModelProcessDied(model.manifest.id, ended)

    @staticmethod
    def _shared(folder: SharedFolder, array: np.ndarray, number: int) -> tuple[str, tuple[int, ...]] | None:
        """The file that has an input, and its shape; None where it goes as bytes."""
        file = folder.holder(array) or folder.write(array, f"input-{number}")
        return None if file is None else (file, array.shape)

    async def _wait(self, request: Any, model: TritonModel) -> Any:
        try:
            return await asyncio.wait_for(request.async_exec(), self._boot.run_timeout)
        except TimeoutError:
            self._loader.end_run(model.name)
            raise RunTookTooLong(model.manifest.id, self._boot.run_timeout) from None

    def _operate(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = request["operation"]
        if operation == "status":
            routers = self._registry.processes("router")
            return {"dead_routers": sorted(name for name, process in routers.items() if not process.is_alive())}
        if operation == "end_run":
            # By the name of what runs: the id may name another package by now.
            self._loader.end_run(request["triton_model"])
            raise RunTookTooLong(request["model_id"], self._boot.run_timeout)
        manifest = resolve(self._boot.store, request.get("model_id"))
        if operation == "resolve":
            return {"id": manifest.id, "version": manifest.version, "triton_model": self._plain(manifest)}
        if operation == "config":
            name = triton_model(manifest, request.get("weight_format"), self._boot.trusted).name
            return {"config": {"name": name, **manifest.triton_config}}
        if operation in ("is_loaded", "load"):
            model = triton_model(manifest, request.get("weight_format"), self._boot.trusted)
            if operation == "is_loaded":
                return {"loaded": self._loader.is_loaded(model)}
            self._loader.ensure(model)
            return {"name": model.name}
        raise BadRequest(
            f"There is no operation {shorten(operation)}. Expected status, resolve, config, is_loaded, load or end_run."
        )

    def _plain(self, manifest: Manifest) -> dict[str, Any] | None:
        """How to speak to the model's own Triton model: its name, the dtype and number of axes of each input, and its outputs.

        None where what it gives back has to be made readable first, or nothing of it can be run.
        """
        if any(spec.dtype not in READABLE for spec in manifest.outputs):
            return None
        try:
            name = triton_model(manifest, None, self._boot.trusted).name
        except RequestError:
            return None
        inputs = {spec.id: [spec.dtype, len(spec.axes)] for spec in manifest.inputs}
        return {"name": name, "inputs": inputs, "outputs": [spec.id for spec in manifest.outputs]}
