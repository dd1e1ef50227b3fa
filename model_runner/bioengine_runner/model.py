"""The process of one bioimage.io model, as Triton's Python backend runs it: tensors in, prediction, tensors out.

Whoever reaches it, through the router or as a Triton model by name, meets the same checks of axes and sizes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bioengine_runner.errors import ModelFailed, RequestError, WeightsDamaged
from bioengine_runner.inference import Pipeline
from bioengine_runner.loading.registry import Registry
from bioengine_runner.rundir import Boot
from bioengine_runner.store import manifest
from bioengine_runner.tensors.fit import check_shapes

logger = logging.getLogger(__name__)


class BioimageioModel:
    """The model of one package and one of its weights, named in the parameters of its config.pbtxt."""

    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s model: %(message)s")
        # First of all, so that a load that hangs can be ended too.
        Registry(Boot.from_environment()).record_process(f"model:{args['model_name']}")
        parameters = json.loads(args["model_config"])["parameters"]
        weights_format = parameters["weights_format"]["string_value"]
        try:
            self._manifest = manifest.read(Path(parameters["package"]["string_value"]), is_default=True)
            verify_weights(self._manifest, weights_format)
            self._pipeline = Pipeline(self._manifest, weights_format)
        except RequestError as error:
            raise pb_utils.TritonModelException(error.marked()) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            outputs = self._predict(
                [pb_utils.get_input_tensor_by_name(request, spec.id).as_numpy() for spec in self._manifest.inputs]
            )
        except RequestError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.marked()))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(spec.id, output) for spec, output in zip(self._manifest.outputs, outputs)]
        )

    def _predict(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        check_shapes(self._manifest.inputs, [array.shape for array in arrays])
        try:
            outputs = self._pipeline.predict(arrays)
        except Exception as error:
            # Whatever the model's own operators raise; the log has all of it, the user its first line.
            logger.exception("%s failed", self._manifest.id)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise ModelFailed(self._manifest.id, reason) from error
        return [np.ascontiguousarray(output, dtype=spec.dtype) for spec, output in zip(self._manifest.outputs, outputs)]


def verify_weights(package: manifest.Manifest, weights_format: str) -> None:
    """Compare the weight file with the hash that was verified at import. Raises WeightsDamaged."""
    weights = package.weights[weights_format]
    try:
        with open(package.folder / weights.source, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsDamaged(package.id, weights.source, f"the file cannot be read ({error.strerror})") from error
    if found != weights.sha256:
        raise WeightsDamaged(
            package.id, weights.source, f"their SHA-256 is {found[:12]}…, it was {weights.sha256[:12]}… at import"
        )
