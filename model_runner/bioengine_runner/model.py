"""The process of one bioimage.io model, as Triton's Python backend runs it: tensors in, prediction, tensors out.

Whoever reaches it, through the router or as a Triton model by name, meets the same checks of axes and sizes.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bioengine_runner.errors import ModelFailed, RequestError, StepFailed
from bioengine_runner.loading.registry import Registry
from bioengine_runner.opening import Opening
from bioengine_runner.reasons import StepError, in_short
from bioengine_runner.request.shared import SharedFolder, stand_in
from bioengine_runner.rundir import Boot
from bioengine_runner.tensors.fit import check_shapes
from bioengine_runner.utf8 import use_utf8

logger = logging.getLogger(__name__)


class BioimageioModel:
    """The model of one package; config.pbtxt's parameters name it, and the formats of its weights that may be opened."""

    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s model: %(message)s")
        use_utf8()
        self._opening: Opening | None = None
        # Nothing is raised here, and nothing of the package is read or imported: see bioengine_runner.opening.
        try:
            self._begin(Boot.from_environment(), f"model:{args['model_name']}", json.loads(args["model_config"])["parameters"])
        except Exception:
            logger.exception("The process of the model %s cannot begin", args.get("model_name"))

    def _begin(self, boot: Boot, owner: str, parameters: dict[str, Any]) -> None:
        self._shared_tensors = boot.shared_tensors
        registry = Registry(boot)
        # First of all, so that a load that hangs can be ended too.
        registry.record_process(owner)
        try:
            package, formats = (parameters[name]["string_value"] for name in ("package", "weight_formats"))
            self._opening = Opening(owner, Path(package), formats.split(","), boot, registry)
        except Exception:
            registry.forget_process(owner)  # the loader then waits for nothing
            raise

    def execute(self, requests: list[Any]) -> list[Any]:
        """Requests that Triton gives together have images of one size; those with wishes of their own are run alone."""
        try:
            if self._opening is None:
                raise RequestError("The model's process could not begin. Ask the server's admin to look at its log.")
            self._manifest, self._pipeline = self._opening.result()
        except RequestError as error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(error.marked())) for _ in requests]
        answers: list[Any] = [None] * len(requests)
        together: dict[int, list[np.ndarray | None]] = {}
        folders: list[SharedFolder | None] = [None] * len(requests)
        for number, request in enumerate(requests):
            try:
                parameters = json.loads(request.parameters() or "{}")
                if "shared" in parameters:
                    arrays, folders[number] = self._shared_inputs(request, **json.loads(parameters["shared"]))
                else:
                    arrays = self._inputs(request)
                check_shapes(self._manifest, [None if array is None else array.shape for array in arrays])
                if "tile" in parameters:
                    outputs = self._pipeline.predict(arrays, json.loads(parameters["tile"]))
                    answers[number] = self._answer(outputs, folders[number])
                else:
                    together[number] = arrays
            except BaseException as error:  # sys.exit() in a package's code as well
                answers[number] = self._failure(error)
        for number, outcome in zip(together, self._pipeline.predict_together(list(together.values()))):
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                answers[number] = self._answer(outcome, folders[number])
            except BaseException as error:
                answers[number] = self._failure(error)
        return answers

    def _inputs(self, request: Any) -> list[np.ndarray | None]:
        """None for optional ones that are not there."""
        tensors = [pb_utils.get_input_tensor_by_name(request, spec.id) for spec in self._manifest.inputs]
        return [None if tensor is None else tensor.as_numpy() for tensor in tensors]

    def _shared_inputs(
        self, request: Any, folder: str, inputs: list[tuple[str, list[int]] | None]
    ) -> tuple[list[np.ndarray | None], SharedFolder]:
        """Inputs of which some are in the files that are named, with their shapes."""
        shared = SharedFolder.named(self._shared_tensors, folder)
        if shared is None:
            raise FileNotFoundError("the server has given up this request")
        arrays = [
            array if given is None else np.asarray(shared.read(*given), dtype=spec.dtype)
            for spec, array, given in zip(self._manifest.inputs, self._inputs(request), inputs)
        ]
        return arrays, shared

    def _answer(self, outputs: list[np.ndarray], shared: SharedFolder | None) -> Any:
        tensors = []
        for number, (spec, output) in enumerate(zip(self._manifest.outputs, outputs)):
            array = np.ascontiguousarray(output, dtype=spec.dtype)
            if shared is not None and shared.write(array, f"output-{number}"):
                array = stand_in(array)
            tensors.append(pb_utils.Tensor(spec.id, array))
        return pb_utils.InferenceResponse(tensors)

    def _failure(self, error: BaseException) -> Any:
        if not isinstance(error, RequestError):
            # Whatever the model's own operators raise; the log has all of it, the user what helps.
            logger.error("%s failed", self._manifest.id, exc_info=error)
            if isinstance(error, StepError):
                version = importlib.metadata.version("bioimageio.core")
                error = StepFailed(self._manifest.id, error.kind, error.step, error.tensor, version, error.reason)
            else:
                error = ModelFailed(self._manifest.id, in_short(error))
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.marked()))
