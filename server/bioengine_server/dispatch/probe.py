"""The readiness probe's lane: one run of a fixed model on a fixed image, whoever asks.

The server asks for it through the service, as a client would, so that registration and Hypha are tried as well. Nothing of the
request enters the lane: what runs is the server's own model on its own image, one run at a time, and those who ask meanwhile
share the next. So a request that only pretends to be the server's gets that same answer and delays nobody.

All other requests to run this model are refused, whatever name they use for it: its process is the one that the probe needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.store.names import SHIPPED_PACKAGES

PROBE_MODEL = "bioengine-probe"
"""The model that the readiness probe runs, shipped with the project."""

_PACKAGE = SHIPPED_PACKAGES / PROBE_MODEL
_RUN_TIMEOUT = 60.0  # seconds; longer than the readiness probe waits, which then takes it for stuck


class ReservedModel(RefusedArgument):
    """A client wants to run the model that is the server's own."""

    code = "reserved_model"

    def __init__(self, argument: str) -> None:
        super().__init__(
            argument,
            f"{PROBE_MODEL!r} is reserved for the server's own readiness probe. Run another model, such as 'drawn-nuclei'.",
        )


def probe_image() -> np.ndarray:
    """The probe's image."""
    image: np.ndarray = np.load(_PACKAGE / "test_input.npy")
    return image


def probe_result() -> np.ndarray:
    """What the model makes of it."""
    image: np.ndarray = np.load(_PACKAGE / "test_output.npy")
    return image


def names_probe(triton_model: object) -> bool:
    """Whether a Triton model is the probe's, with whichever weights or version."""
    return isinstance(triton_model, str) and (triton_model == PROBE_MODEL or triton_model.startswith(f"{PROBE_MODEL}--"))


class ProbeLane:
    """The lane of one service."""

    def __init__(self, run: Callable[[np.ndarray], Awaitable[dict[str, Any]]]) -> None:
        """`run`: runs the probe's model on an image."""
        self._run_model = run
        self._image = probe_image()
        self._running = asyncio.Lock()
        self._next: asyncio.Task[dict[str, Any]] | None = None

    def is_asked(self, model_id: object, inputs: object, caller: Caller) -> bool:
        """Whether a request is the server's own probe."""
        if caller.user != OWN_USER or model_id != PROBE_MODEL or not isinstance(inputs, (list, tuple)) or len(inputs) != 1:
            return False
        return isinstance(inputs[0], np.ndarray) and np.array_equal(inputs[0], self._image)

    async def run(self) -> dict[str, Any]:
        """The result of a run that begins after this call. Raises RequestError, TritonUnavailable, TimeoutError."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._run())
            self._next.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(self._next)

    async def _run(self) -> dict[str, Any]:
        async with self._running:
            self._next = None
            async with asyncio.timeout(_RUN_TIMEOUT):
                return await self._run_model(self._image)
