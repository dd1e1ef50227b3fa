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
        """Requests that Triton gives together have images of one size; those with wishes of their own are run alone."""
        answers: list[Any] = [None] * len(requests)
        together: dict[int, list[np.ndarray]] = {}
        for number, request in enumerate(requests):
            try:
                arrays = self._inputs(request)
                tile = json.loads(request.parameters() or "{}").get("tile")
                if tile is None:
                    together[number] = arrays
                else:
                    answers[number] = self._answer(self._pipeline.predict(arrays, json.loads(tile)))
            except Exception as error:
                answers[number] = self._failure(error)
        for number, outcome in zip(together, self._pipeline.predict_together(list(together.values()))):
            answers[number] = self._failure(outcome) if isinstance(outcome, Exception) else self._answer(outcome)
        return answers

    def _inputs(self, request: Any) -> list[np.ndarray]:
        arrays = [pb_utils.get_input_tensor_by_name(request, spec.id).as_numpy() for spec in self._manifest.inputs]
        check_shapes(self._manifest, [array.shape for array in arrays])
        return arrays

    def _answer(self, outputs: list[np.ndarray]) -> Any:
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(spec.id, np.ascontiguousarray(output, dtype=spec.dtype))
                for spec, output in zip(self._manifest.outputs, outputs)
            ]
        )

    def _failure(self, error: Exception) -> Any:
        if not isinstance(error, RequestError):
            # Whatever the model's own operators raise; the log has all of it, the user its first line.
            logger.error("%s failed", self._manifest.id, exc_info=error)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            error = ModelFailed(self._manifest.id, reason)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.marked()))


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
