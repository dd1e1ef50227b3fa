"""What all apps share: a Triton model that answers an image and a dict of parameters.

Nothing that can fail happens in `initialize`, where Triton 2.51 may abort (`bioengine_runner.opening`): the weights are opened by
the first request.
"""

from __future__ import annotations

import json
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import triton_python_backend_utils as pb_utils
from bioengine_contract.errors import BioEngineError

from bioengine_runner.apps.errors import TooManyObjects
from bioengine_runner.apps.parameters import Check, read_parameters
from bioengine_runner.reasons import in_short
from bioengine_runner.utf8 import use_utf8

logger = logging.getLogger(__name__)

WEIGHTS = "weights"
"""The folder with the weights, in that of the Triton model's version."""

_MAX_LABEL = int(np.iinfo(np.uint16).max)


class App(ABC):
    """One app, as Triton's Python backend calls it: one request at a time."""

    parameters: ClassVar[Mapping[str, Check]] = {}
    """The parameters that a request may have; without any, the Triton model has no input `param`."""

    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {args['model_name']}: %(message)s")
        use_utf8()
        self.weights = Path(args["model_repository"]) / args["model_version"] / WEIGHTS

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answered(request) for request in requests]

    @abstractmethod
    def answer(self, image: np.ndarray, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by name. Raises BioEngineError where a client can do something about it."""

    def _answered(self, request: Any) -> Any:
        try:
            image = pb_utils.get_input_tensor_by_name(request, "image")
            assert image is not None  # Triton refuses requests without it
            text = pb_utils.get_input_tensor_by_name(request, "param") if self.parameters else None
            parameters = read_parameters("{}" if text is None else text.as_numpy().item(), self.parameters)
            outputs = self.answer(image.as_numpy(), parameters)
        except BioEngineError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        except Exception as error:
            logger.exception("A request failed")
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(
                    f"The model failed: {in_short(error)}. Ask the server's admin to look at Triton's log."
                )
            )
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])


def as_mask(labels: np.ndarray) -> np.ndarray:
    """Labels as the uint16 that clients expect. Raises TooManyObjects."""
    count = int(labels.max(initial=0))
    if count > _MAX_LABEL:
        raise TooManyObjects(count, _MAX_LABEL)
    return np.ascontiguousarray(labels, dtype=np.uint16)


def as_json(value: Mapping[str, Any]) -> np.ndarray:
    """A dict as an output of Triton's type BYTES, shape (1,)."""
    return np.array([json.dumps(value).encode()], dtype=np.object_)
