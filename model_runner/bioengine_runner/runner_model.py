"""`bioengine-model-runner`, the Triton model that clients name.

On a BioEngine server's port the server answers for it, whatever the client. Here, in Triton, it is

- the server's hand: it loads and unloads models, says what lives, and ends a process (`bioengine_contract.operations`);
- the whole answer for those who ask a Triton without the server: request -> package -> arrays -> the package's own Triton model
  (BLS) -> result, by the same code as the server's (`bioengine_contract.run`).

Triton gives a Python process one request at a time, so there are a few light instances: nothing heavy is imported here.

Input `kwargs` (BYTES): MessagePack of a dict (`bioengine_contract.message`), which is a request (`bioengine_contract.request`) or
an operation. Output `result` (BYTES), encoded the same way:
`{"task_id": str, "outputs": [array, ...], "execution_time": seconds, "success": True, "weight_format": str, "device": str}`,
and `"warnings": [str, ...]` where there is something to say of the values;
`{"success": False, "error": str, "code": str}`; or `{"rdf": dict}` where `inputs` is None or absent.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
import uuid
from typing import Any

import msgpack
import numpy as np
import triton_python_backend_utils as pb_utils
from bioengine_contract import message, run
from bioengine_contract.errors import BadRequest, Fault, RequestError, raise_marked, shorten
from bioengine_contract.ids import PackageKey, is_triton_name, triton_name
from bioengine_contract.machine import machine_memory
from bioengine_contract.manifest import Manifest
from bioengine_contract.model_errors import ModelFailed, ModelProcessDied, RunTookTooLong
from bioengine_contract.operations import Card, Load, ModelProcess, Report
from bioengine_contract.request import RunRequest
from bioengine_contract.run import Run
from bioengine_contract.store import package_of, resolve
from bioengine_contract.triton_model import TritonModel, name_on_card
from bioengine_contract.triton_text import is_unloading, process_died

from bioengine_runner.gpu import cards
from bioengine_runner.loading.loader import Loader
from bioengine_runner.loading.records import INSTANCES, Records
from bioengine_runner.loading.replaced import end_replaced
from bioengine_runner.rundir import Boot
from bioengine_runner.utf8 import use_utf8

logger = logging.getLogger(__name__)


class RunnerModel:
    """One instance, as Triton's Python backend calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s runner: %(message)s")
        use_utf8()
        for model in (Load, ModelProcess, Card, Report, Manifest):
            # `lean_import` leaves this to their first use. It imports more of pydantic, and the environment may be gone by then.
            model.model_rebuild()
        self._boot = Boot.from_environment()
        self._instances = Records(self._boot, INSTANCES)
        end_replaced(self._instances.begin(args["model_instance_name"]))
        self._loader = Loader(self._boot, pb_utils)

    async def execute(self, requests: list[Any]) -> list[Any]:
        return [await self._respond(request) for request in requests]

    async def _respond(self, request: Any) -> Any:
        task_id = str(uuid.uuid4())
        try:
            data = _array(pb_utils.get_input_tensor_by_name(request, "kwargs"))
            answer = message.encode(await self._answer(data.flat[0] if data.size == 1 else b"", task_id))
        except Exception:
            # An exception would reach the server as a failure of this instance, which it repairs.
            answer = message.encode(self._fault(task_id))
        return pb_utils.InferenceResponse([pb_utils.Tensor("result", np.array([answer], dtype=object))])

    async def _answer(self, data: bytes, task_id: str) -> dict[str, Any]:
        try:
            request = _decoded(data)
            if isinstance(request, dict) and "operation" in request:
                return self._operate(request)
            return await self._run(RunRequest.from_client(request), task_id)
        except RequestError as error:
            return run.failure(error, task_id, self._traceback())
        except Exception:
            return self._fault(task_id)

    def _fault(self, task_id: str) -> dict[str, Any]:
        """What the client gets for an exception that is no error of the request's; the log has all of it."""
        logger.exception("Task %s failed", task_id)
        return run.failure(Fault(task_id), task_id, self._traceback())

    def _traceback(self) -> str:
        return f"\n\n{traceback.format_exc()}" if self._boot.debug else ""

    async def _run(self, request: RunRequest, task_id: str) -> dict[str, Any]:
        package = resolve(self._boot.store, request.model_id)
        if request.inputs is None:
            return run.description(package, "")
        prepared = Run.prepare(package, request, self._boot.trusted)
        started = time.perf_counter()
        outputs, opened = await self._infer(prepared)
        result = prepared.result(task_id, outputs, time.perf_counter() - started, opened.weight_format, opened.device)
        return {**result, **run.description(package, "")} if "return_rdf" in request.options else result

    async def _infer(self, prepared: Run) -> tuple[list[np.ndarray], Any]:
        """Run its model; where its process has died, or dies meanwhile, load it again and try once more."""
        model, manifest = prepared.model, prepared.model.manifest
        for _attempt in range(2):
            opened = self._loader.ensure(model)
            inputs = [
                pb_utils.Tensor(spec.id, np.ascontiguousarray(array))
                for spec, array in zip(manifest.inputs, prepared.arrays)
                if array is not None
            ]
            request = pb_utils.InferenceRequest(
                model_name=model.name,
                requested_output_names=prepared.output_names,
                inputs=inputs,
                parameters=prepared.parameters,
            )
            response = await self._wait(request, model)
            if not response.has_error():
                tensors = [pb_utils.get_output_tensor_by_name(response, name) for name in prepared.output_names]
                return [_array(tensor) for tensor in tensors], opened
            text = response.error().message()
            raise_marked(text)
            logger.warning("%s: %s", model.name, text)
            found = self._loader.process(model.name)
            if found.state == "open" and not is_unloading(text) and not process_died(text):
                raise ModelFailed(manifest.id, "it gave no reason; the server's log has more")
        raise ModelProcessDied(manifest.id, found.reason or "its process has ended")

    async def _wait(self, request: Any, model: TritonModel) -> Any:
        try:
            return await asyncio.wait_for(request.async_exec(), self._boot.run_timeout)
        except TimeoutError:
            self._loader.end(model.name)
            raise RunTookTooLong(model.manifest.id, self._boot.run_timeout) from None

    def _operate(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, name = request["operation"], request.get("name")
        if name is not None and not is_triton_name(name):  # it becomes a path
            raise BadRequest(f"{shorten(name)} is not the name of a model")
        if operation == "load":
            load = Load.model_validate(request)
            self._loader.begin(self._model(load))
            return self._loader.process(load.name).model_dump()
        if operation == "report":
            return self._report().model_dump()
        if operation in ("process", "unload", "end") and isinstance(name, str):
            if operation == "process":
                return self._loader.process(name).model_dump()
            self._loader.unload(name) if operation == "unload" else self._loader.end(name)
            return {}
        raise BadRequest(f"There is no operation {shorten(operation)}. Expected load, process, unload, end or report.")

    def _model(self, load: Load) -> TritonModel:
        """What the server wants to have loaded, from the store as it is here. Raises RequestError."""
        key = PackageKey.parse(load.package)
        if key is None:
            raise BadRequest(f"{shorten(load.package)} is not the key of a package")
        package = package_of(self._boot.store, key)
        if package.fingerprint != load.fingerprint:
            raise BadRequest(f"The package {key} was imported again meanwhile. Send the request again.")
        formats = tuple(load.weight_formats)
        names = {triton_name(key, package.is_default, only) for only in ("", *formats[:1])}
        if load.card is not None:
            names = {name_on_card(name, load.card) for name in names}
        if load.name not in names or not formats or not set(formats) <= set(package.manifest.weights):
            raise BadRequest(f"{shorten(load.name)} is not the name of {key} now. Send the request again.")
        return TritonModel(load.name, package, formats, load.card)

    def _report(self) -> Report:
        instances = self._instances.all().items()
        dead = sorted(name for name, record in instances if not record.process.is_alive())
        models = self._loader.processes()
        return Report(boot=self._boot.folder.name, dead_instances=dead, models=models, memory=machine_memory(), cards=cards())


def _decoded(data: bytes) -> Any:
    """The request or operation. Raises BadRequest."""
    try:
        return message.decode(data)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise BadRequest(
            f"The request cannot be read ({str(error)[:200]}). Expected MessagePack of a dict in imjoy-rpc's encoding; "
            "the triton-client service makes it for you."
        ) from error


def _array(tensor: pb_utils.Tensor | None) -> np.ndarray:
    """The array of a tensor that Triton itself sees to be there, since the configuration of its model names it."""
    assert tensor is not None
    return tensor.as_numpy()
