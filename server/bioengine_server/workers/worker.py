"""A worker: a Triton that runs models, wherever it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from bioengine_contract.operations import Report
from bioengine_contract.processes import Process
from bioengine_contract.shared_tensors import SharedArray
from bioengine_contract.triton_model import TritonModel

from bioengine_server.workers.memory import Memory


@dataclass(frozen=True)
class Opened:
    """What the process of a loaded model has opened, and where it computes, such as "onnx" and "cuda:0"."""

    weight_format: str
    device: str
    process: Process | None = None
    """None where the worker's processes are not on this machine."""
    memory: Memory = Memory()
    """What its process holds at rest."""


class ModelGone(Exception):
    """The process of a model has ended, or its Triton has it no more. `reason`: as the second half of a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Follower(Protocol):
    """Whoever follows a run."""

    stopped: asyncio.Event
    """Set when nobody wants the result any more."""

    def tile(self, number: int, of: int) -> None:
        """The model's process works on this tile of so many."""


Body = Callable[[], AsyncIterator[bytes | bytearray]]
"""Makes the body of a request anew for each time that it is sent."""


class Worker(Protocol):
    """What the dispatcher asks of a worker. All of it raises TritonUnavailable where the worker does not answer."""

    async def load(self, model: TritonModel) -> Opened:
        """Have a model loaded, with the content that its package has now. Raises RequestError."""

    async def unload(self, name: str) -> None:
        """Unload a model; its memory is free then."""

    def lives(self, opened: Opened) -> bool:
        """Whether the process of a loaded model lives, as far as can be seen without asking."""

    async def end(self, name: str) -> None:
        """Kill the process of a model, whatever it is working on."""

    async def infer(
        self,
        model: TritonModel,
        arrays: Sequence[np.ndarray | SharedArray | None],
        parameters: Mapping[str, str],
        follower: Follower,
    ) -> list[np.ndarray]:
        """The outputs of a loaded model. Raises RequestError, ModelGone.

        Args:
            model: the model.
            arrays: one for each input, as the model takes them; None for an optional one that is left out. All of those that are
                shared already are in one folder.
            parameters: of the inference request.
            follower: told of tiles; the run ends between two of them when nobody wants it any more.
        """

    async def forward(
        self, model: TritonModel, version: str, body: Body, headers: Mapping[str, str], follower: Follower | None = None
    ) -> Any:
        """Triton's answer to an inference request of its own protocol, to be read and released. Raises RequestError, ModelGone.

        Args:
            model: a loaded model.
            version: of the Triton model, empty for the newest.
            body, headers: of the HTTP request.
            follower: says that nobody wants the answer any more, before the worker has the request.
        """

    async def report(self) -> Report:
        """What lives there, and what it holds."""

    async def wait_until_ready(self) -> None:
        """Wait for a worker that is starting again."""
