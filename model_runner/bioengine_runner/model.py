"""The process of one bioimage.io model, as Triton's Python backend runs it: tensors in, prediction, tensors out.

Whoever reaches it, through the router or as a Triton model by name, meets the same checks of axes and sizes.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bioengine_runner.errors import ModelFailed, RequestError
from bioengine_runner.inference import Pipeline
from bioengine_runner.loading.registry import Registry
from bioengine_runner.rundir import Boot
from bioengine_runner.store import manifest
from bioengine_runner.store.trust import check_trust
from bioengine_runner.store.verify import verify_package
from bioengine_runner.tensors.fit import check_shapes

logger = logging.getLogger(__name__)


class BioimageioModel:
    """The model of one package; config.pbtxt's parameters name it, and the formats of its weights that may be opened."""

    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s model: %(message)s")
        boot, owner = Boot.from_environment(), f"model:{args['model_name']}"
        registry = Registry(boot)
        # First of all, so that a load that hangs can be ended too.
        registry.record_process(owner)
        parameters = json.loads(args["model_config"])["parameters"]
        weight_formats = parameters["weight_formats"]["string_value"].split(",")
        try:
            self._manifest = manifest.read(Path(parameters["package"]["string_value"]), is_default=True)
            # Once more, after the router: nothing of a package is run that is not trusted, or not what it was at import.
            for name in weight_formats:
                check_trust(self._manifest, name, boot.trusted)
            verify_package(self._manifest, weight_formats)
            self._pipeline = Pipeline(self._manifest, weight_formats, boot)
        except RequestError as error:
            raise pb_utils.TritonModelException(error.marked()) from None
        registry.record_opened(owner, self._pipeline.opened.weight_format, self._pipeline.opened.device)

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
