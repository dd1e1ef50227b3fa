"""A worker that has dialled in, as the dispatcher sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bioengine_contract.errors import RemoteError
from bioengine_contract.operations import Report
from bioengine_contract.run import wanted_outputs
from bioengine_contract.shared_tensors import SharedArray
from bioengine_contract.triton_model import TritonModel
from pydantic import ValidationError

from bioengine_server.triton.errors import TritonError, TritonUnavailable
from bioengine_server.triton.held_answer import HeldAnswer
from bioengine_server.workers.errors import WorkerLost, WrongAnswer
from bioengine_server.workers.link import Link
from bioengine_server.workers.parcel import Parcel
from bioengine_server.workers.protocol import Failure, Lane, OpenedThere, Wanted
from bioengine_server.workers.worker import Body, Follower, ModelGone, Opened

# How long a request waits for a worker whose Triton is starting again.
RECOVERY = 20.0  # seconds

_WRONG_ANSWERS = 3
"""After so many a worker is drained."""


class RemoteWorker:
    """A `Worker`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._wrong = 0

    async def load(self, model: TritonModel) -> Opened:
        answer = await self._ask("orders", "load", {"model": Wanted.of(model).model_dump()})
        try:
            return OpenedThere.model_validate(answer.header["opened"]).opened()
        except (KeyError, ValidationError):
            raise self._wrong_answer("no description of what was opened") from None

    async def unload(self, name: str) -> None:
        await self._ask("orders", "unload", {"name": name})

    async def end(self, name: str) -> None:
        await self._ask("orders", "end", {"name": name})

    def lives(self, opened: Opened) -> bool:
        return not self._link.is_lost

    async def infer(
        self,
        model: TritonModel,
        arrays: Sequence[np.ndarray | SharedArray | None],
        parameters: Mapping[str, str],
        follower: Follower,
    ) -> list[np.ndarray]:
        header = {"model": Wanted.of(model).model_dump(), "parameters": dict(parameters)}
        answer = await self._ask("runs", "infer", header, arrays, follower=follower)
        outputs = [array for array in answer.in_memory() if array is not None]
        expected = wanted_outputs(model.manifest, parameters)
        if len(outputs) != len(expected) or any(
            output.ndim != len(spec.axes) or output.dtype != np.dtype(spec.dtype) for output, spec in zip(outputs, expected)
        ):
            shapes = ", ".join(f"{output.dtype} of {output.shape}" for output in outputs) or "nothing"
            raise self._wrong_answer(f"{shapes} for the {len(expected)} outputs of {model.name}")
        return outputs

    async def forward(
        self, model: TritonModel, version: str, body: Body, headers: Mapping[str, str], follower: Follower | None = None
    ) -> HeldAnswer:
        whole = bytearray()
        async for part in body():
            whole += part
        header = {"model": Wanted.of(model).model_dump(), "version": version, "headers": dict(headers)}
        answer = await self._ask("runs", "forward", header, body=whole, follower=follower)
        try:
            return HeldAnswer(int(answer.header["status"]), dict(answer.header["headers"]), bytes(answer.body))
        except (KeyError, ValueError, TypeError):
            raise self._wrong_answer("no status and headers of Triton's answer") from None

    async def report(self) -> Report:
        if self._link.report is None:
            raise TritonUnavailable(self._link.not_ready or "it has not reported yet")
        return self._link.report

    async def wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(RECOVERY):
                while not self._link.ready.is_set():
                    if self._link.is_lost:
                        raise WorkerLost(self._link.name, had_begun=False)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TritonUnavailable(f"{self._link.not_ready}, for {RECOVERY:.0f} s") from None

    async def _ask(
        self,
        lane: Lane,
        operation: str,
        header: dict[str, Any],
        arrays: Sequence[np.ndarray | SharedArray | None] = (),
        body: bytes | bytearray = b"",
        follower: Follower | None = None,
    ) -> Parcel:
        """The worker's answer. Raises what its own worker has raised, WorkerLost, WrongAnswer."""
        answer = await self._link.ask(lane, Parcel({"operation": operation, **header}, arrays, body), follower)
        if (failure := answer.header.get("failure")) is None:
            return answer
        try:
            found = Failure.model_validate(failure)
        except ValidationError:
            raise self._wrong_answer("an error that cannot be read") from None
        if found.kind == "gone":
            raise ModelGone(found.text)
        if found.kind == "away":
            raise TritonUnavailable(found.text)
        if found.kind == "triton":
            raise TritonError(found.text, found.status)
        raise RemoteError(found.text, found.code)

    def _wrong_answer(self, reason: str) -> WrongAnswer:
        self._wrong += 1
        self._link.drained |= self._wrong >= _WRONG_ANSWERS
        return WrongAnswer(self._link.name, reason)
