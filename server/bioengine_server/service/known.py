"""What the server remembers of models that clients have asked for, and the short way of small images to those that run.

    request -> router -> the model's own Triton model -> router -> result      any
    request -> the model's own Triton model -> result                          small, plain, of a model that has just run

The way through the router takes longer by what only a small image notices. Who goes the short way has arrays that the model takes
as they are; the router is for all else, and for whatever fails: it says what is wrong, and heals what has died.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bioengine_server.triton.router import Router
from bioengine_server.triton.shared import LEAST_BYTES

_MOST = 1024
_KNOWN_FOR = 10.0  # seconds; the store may be somebody else's, who changes it unseen


@dataclass
class KnownModel:
    """A model of the store, as the router has resolved its id. `place`: `<id>/<version>`. `state`: of the store then."""

    place: str
    state: object
    triton_model: dict[str, Any] | None
    """As `bioengine_runner.router` describes what it takes; None where only the router can speak to it."""
    opened: dict[str, Any] = field(default_factory=dict)
    """`weight_format` and `device` of its last run; empty before the first."""
    info: dict[str, Any] = field(default_factory=dict)
    """What Triton said of that run."""
    until: float = field(default_factory=lambda: time.monotonic() + _KNOWN_FOR)

    def ran(self, request: dict[str, Any], result: dict[str, Any], info: dict[str, Any]) -> None:
        """The router has run it.

        After a failure the next one is for the router as well, which sees whether its process lives; and so are large results,
        and those that it warned of.
        """
        if not result.get("success") or "warnings" in result:
            self.opened = {}
        elif "weight_format" not in request and all(output.nbytes < LEAST_BYTES for output in result["outputs"]):
            self.opened, self.info = {key: result[key] for key in ("weight_format", "device")}, info

    def plain_inputs(self, request: dict[str, Any]) -> list[tuple[str, np.ndarray]] | None:
        """The inputs of a request that can go the short way, by name; None where it cannot."""
        if not self.opened or self.triton_model is None or self.state is None or request.keys() != {"model_id", "inputs"}:
            return None
        arrays, wanted = request["inputs"], self.triton_model["inputs"]
        if not isinstance(arrays, (list, tuple)) or len(arrays) != len(wanted):
            return None
        for array, (dtype, axes) in zip(arrays, wanted.values()):
            if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != axes or not array.size:
                return None
            if array.nbytes < LEAST_BYTES and not _is_finite(array):  # which the router says
                return None
        # Larger ones are shared with the router and the model's process, and take so long that its part is next to nothing.
        return list(zip(wanted, arrays)) if all(array.nbytes < LEAST_BYTES for array in arrays) else None

    async def run(
        self, router: Router, model_id: str, inputs: list[tuple[str, np.ndarray]]
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Run `plain_inputs` the short way: result and info, as the router has them. Raises TritonError, TritonUnavailable.

        None where there is something to say of the outputs, which the router does.

        Args:
            router: for a run that takes too long, which it ends.
            model_id: as the client named the model.
            inputs: arrays by name.
        """
        assert self.triton_model is not None
        name, outputs = self.triton_model["name"], self.triton_model["outputs"]
        started = time.perf_counter()
        try:
            async with asyncio.timeout(router.api.run_timeout):
                answer = await router.api.infer(name, inputs, outputs)
        except TimeoutError:
            self.opened = {}
            return await router.ask({"operation": "end_run", "model_id": model_id, "triton_model": name})
        if not all(_is_finite(array) for array in answer.outputs.values()):
            self.opened = {}
            return None
        result = {
            "task_id": str(uuid.uuid4()),
            "outputs": [answer.outputs[output] for output in outputs],
            "execution_time": time.perf_counter() - started,
            "success": True,
            **self.opened,
        }
        return result, self.info


def _is_finite(array: np.ndarray) -> bool:
    """Whether every value is a finite number, as far as a sum shows: it may also be too large."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum(dtype=np.float64)))


class KnownModels:
    """By the ids that clients have named, for a moment, and only while nothing changes in the store."""

    def __init__(self) -> None:
        self._models: dict[str, KnownModel] = {}

    def get(self, model_id: Any, state: object) -> KnownModel | None:
        """
        Args:
            model_id: as a client named it.
            state: of the store.
        """
        model = self._models.get(model_id) if isinstance(model_id, str) else None
        return model if model is not None and model.state == state and model.until > time.monotonic() else None

    def add(self, model_id: str, model: KnownModel) -> None:
        """`model` is what `model_id` names."""
        if len(self._models) >= _MOST:
            self._models.clear()
        self._models[model_id] = model
