"""What the server remembers of models that clients have asked for, and the short way of small images to those that run.

    request -> router -> the model's own Triton model -> router -> result      any
    request -> the model's own Triton model -> result                          small, plain, of a model that has just run

The way through the router takes 2 ms more, of some 10 that a small image is on its way. Who goes the short way has arrays that
the model takes as they are; the router is for all else, and for whatever fails: it says what is wrong, and heals what has died.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.shared import LEAST_BYTES

_MOST = 1024


@dataclass
class KnownModel:
    """A model of the store, as the router has resolved its id. `place`: `<id>/<version>`."""

    place: str
    triton_model: dict[str, Any] | None
    """As `bioengine_runner.router` describes what it takes; None where only the router can speak to it."""
    opened: dict[str, Any] = field(default_factory=dict)
    """`weight_format` and `device` of its last run; empty before the first."""

    def ran(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        """The router has run it."""
        if "weight_format" not in request:
            self.opened = {key: result[key] for key in ("weight_format", "device")}

    def plain_inputs(self, request: dict[str, Any]) -> list[tuple[str, np.ndarray]] | None:
        """The inputs of a request that can go the short way, by name; None where it cannot."""
        if not self.opened or self.triton_model is None or request.keys() != {"model_id", "inputs"}:
            return None
        arrays, wanted = request["inputs"], self.triton_model["inputs"]
        if not isinstance(arrays, (list, tuple)) or len(arrays) != len(wanted):
            return None
        for array, (dtype, axes) in zip(arrays, wanted.values()):
            if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != axes or not array.size:
                return None
        # Larger ones are shared with the router and the model's process, and take so long that its part is next to nothing.
        return list(zip(wanted, arrays)) if all(array.nbytes < LEAST_BYTES for array in arrays) else None

    async def run(self, triton: TritonApi, inputs: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
        """Run `plain_inputs` the short way: the result, as the router has it. Raises TritonError, TritonUnavailable."""
        assert self.triton_model is not None
        outputs = self.triton_model["outputs"]
        started = time.perf_counter()
        result = await triton.infer(self.triton_model["name"], inputs, outputs)
        return {
            "task_id": str(uuid.uuid4()),
            "outputs": [result.outputs[name] for name in outputs],
            "execution_time": time.perf_counter() - started,
            "success": True,
            **self.opened,
        }


class KnownModels:
    """By the ids that clients have named, for as long as nothing changes in the store."""

    def __init__(self) -> None:
        self._state: object = None
        self._models: dict[str, KnownModel] = {}

    def get(self, model_id: Any, state: object) -> KnownModel | None:
        """
        Args:
            model_id: as a client named it.
            state: of the store.
        """
        if state != self._state:
            self._state = state
            self._models.clear()
        return self._models.get(model_id) if isinstance(model_id, str) else None

    def add(self, model_id: str, state: object, model: KnownModel) -> None:
        """`model` is what `model_id` named while the store was in this `state`."""
        if state == self._state:
            if len(self._models) >= _MOST:
                self._models.clear()
            self._models[model_id] = model
