"""The process of one bioimage.io model, as Triton's Python backend runs it: tensors in, prediction, tensors out.

Whoever reaches it, through the server or as a Triton model by name, meets the same checks of axes and sizes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from bioengine_contract.errors import RequestError
from bioengine_contract.labels import LABELS, LabelMethod
from bioengine_contract.model_errors import Cancelled, ModelFailed, OtherPackage
from bioengine_contract.run import FINGERPRINT, TILE
from bioengine_contract.shared_tensors import MIN_BYTES, PARAMETER, SharedFolder, opened_folder, output_file, placeholder
from bioengine_contract.tensors.fit import check_shapes
from bioengine_contract.triton_model import RUNS_CODE

from bioengine_runner import process_log
from bioengine_runner.confinement.one_model import confine_model
from bioengine_runner.errors import StepFailed
from bioengine_runner.gpu import start_cuda
from bioengine_runner.labels.run import use_packages, with_labels
from bioengine_runner.loading.records import MODELS, Records
from bioengine_runner.opening import Opening
from bioengine_runner.reasons import StepError, in_short
from bioengine_runner.rundir import Boot
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
            self._begin(Boot.from_environment(), args["model_name"], json.loads(args["model_config"])["parameters"])
        except Exception:
            logger.exception("The process of the model %s cannot begin", args.get("model_name"))

    def _begin(self, boot: Boot, name: str, parameters: dict[str, Any]) -> None:
        self._shared_tensors, self._labels, self._fingerprint = boot.shared_tensors, boot.labels, ""
        package, formats, fingerprint = (parameters[key]["string_value"] for key in ("package", "weight_formats", "fingerprint"))
        self._fingerprint = fingerprint
        process_log.keep(boot, name)
        if card := parameters.get("card", {}).get("string_value"):
            # Before anything looks for a GPU: the only one that this process sees is its own, in the order of NVIDIA's tools.
            os.environ.update(CUDA_VISIBLE_DEVICES=card, CUDA_DEVICE_ORDER="PCI_BUS_ID")
        records = Records(boot, MODELS)
        # First of all, so that a load that hangs can be ended too.
        record = records.begin(name, fingerprint)
        try:
            if boot.accelerator != "cpu" and (error := start_cuda()):  # it could not once the process is confined
                logger.warning("CUDA does not start: its error %d", error)
            confine_model(boot, Path(package), RUNS_CODE in parameters)
            self._opening = Opening(name, record, records, Path(package), formats.split(","), boot, card or "")
        except Exception:
            records.forget(name)  # the loader then waits for nothing
            raise

    def execute(self, requests: list[Any]) -> list[Any]:
        """Requests that Triton gives together have images of one size; those that ask for tiles are run alone."""
        try:
            if self._opening is None:
                raise RequestError("The model's process could not begin. Ask the server's admin to look at its log.")
            self._manifest, self._pipeline = self._opening.result()
        except RequestError as error:
            return [_refusal(error) for _ in requests]
        with contextlib.ExitStack() as folders:
            return self._answers(requests, folders)

    def _answers(self, requests: list[Any], opened: contextlib.ExitStack) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        together: dict[int, list[np.ndarray | None]] = {}
        methods: dict[int, LabelMethod] = {}
        folders: list[SharedFolder | None] = [None] * len(requests)
        wanted = [request.requested_output_names() for request in requests]
        for number, request in enumerate(requests):
            try:
                parameters = json.loads(request.parameters() or "{}")
                if parameters.get(FINGERPRINT, self._fingerprint) != self._fingerprint:
                    raise OtherPackage(self._manifest.id)
                arrays = self._inputs(request)
                if PARAMETER in parameters:
                    shared = json.loads(parameters[PARAMETER])
                    folders[number] = opened.enter_context(opened_folder(self._shared_tensors, shared["folder"]))
                    arrays = self._with_shared(arrays, shared["inputs"], folders[number])
                check_shapes(self._manifest, [None if array is None else array.shape for array in arrays])
                if LABELS in parameters:
                    methods[number] = LabelMethod.from_json(parameters[LABELS])
                    use_packages(self._labels)
                if TILE in parameters:
                    tile, on_tile = json.loads(parameters[TILE]), self._on_tile(folders[number])
                    outputs = self._labelled(
                        arrays, self._pipeline.predict(arrays, tile, on_tile, wanted[number]), methods.get(number)
                    )
                    answers[number] = self._answer(outputs, wanted[number], folders[number])
                else:
                    together[number] = arrays
            except BaseException as error:  # sys.exit() in a package's code as well
                answers[number] = self._failure(error)
        on_tiles = [self._on_tile(folders[number]) for number in together]
        outcomes = self._pipeline.predict_together(list(together.values()), on_tiles, [wanted[number] for number in together])
        for number, outcome in zip(together, outcomes):
            try:
                if isinstance(outcome, BaseException):
                    answers[number] = self._failure(outcome)
                else:
                    outputs = self._labelled(together[number], outcome, methods.get(number))
                    answers[number] = self._answer(outputs, wanted[number], folders[number])
            except BaseException as error:
                answers[number] = self._failure(error)
        return answers

    def _labelled(
        self, arrays: list[np.ndarray | None], outputs: list[np.ndarray], method: LabelMethod | None
    ) -> list[np.ndarray]:
        return outputs if method is None else with_labels(self._manifest, method, arrays, outputs)

    def _on_tile(self, folder: SharedFolder | None) -> Callable[[int, int], None]:
        """Before each tile: the server learns of it, and may have the run end."""

        def on_tile(number: int, of: int) -> None:
            if folder is None or of == 1:
                return
            if folder.is_stopped():
                raise Cancelled("its caller")
            folder.tell_tile(number, of)

        return on_tile

    def _inputs(self, request: Any) -> list[np.ndarray | None]:
        """None for optional ones that are not there."""
        tensors = [pb_utils.get_input_tensor_by_name(request, spec.id) for spec in self._manifest.inputs]
        return [None if tensor is None else tensor.as_numpy() for tensor in tensors]

    def _with_shared(
        self, arrays: list[np.ndarray | None], files: list[str | None], folder: SharedFolder | None
    ) -> list[np.ndarray | None]:
        """Inputs of which some are in the files that are named."""
        if folder is None:
            raise FileNotFoundError("the server has given up this request")
        return [
            array if file is None else np.asarray(folder.map(file), dtype=spec.dtype)
            for spec, array, file in zip(self._manifest.inputs, arrays, files)
        ]

    def _answer(self, outputs: list[np.ndarray], names: list[str], folder: SharedFolder | None) -> Any:
        """`outputs`: those with the names `names`, in the model's order."""
        tensors, specs = [], [spec for spec in self._manifest.outputs if spec.id in names]
        for number, (spec, output) in enumerate(zip(specs, outputs)):
            array = np.ascontiguousarray(output, dtype=spec.dtype)
            if folder is not None and array.nbytes >= MIN_BYTES and folder.write(array, output_file(number)):
                array = placeholder(array)
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
        return _refusal(error)


def _refusal(error: RequestError) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.marked()))
