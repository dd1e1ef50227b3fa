"""A Triton, with its model runner, as a worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import numpy as np
from bioengine_contract.errors import RequestError
from bioengine_contract.model_errors import ModelFailed, ModelNotLoaded, OtherPackage
from bioengine_contract.operations import Load, ModelProcess, Report
from bioengine_contract.processes import Process
from bioengine_contract.run import wanted_outputs
from bioengine_contract.shared_tensors import SharedArray, SharedFolder, SharedInputs, SharedTensors, output_file
from bioengine_contract.triton_model import TritonModel
from bioengine_contract.triton_text import is_unloading, may_be_gone

from bioengine_server.aside import aside
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonError, TritonUnavailable
from bioengine_server.triton.runner import Runner
from bioengine_server.workers.following import followed
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import Body, Follower, ModelGone, Opened

# Loads that Triton's model runner begins at once; one more of its instances is free for short questions meanwhile.
_LOADS = 2

# Between two questions for a model that is being loaded; the first ones come quickly, since some models open at once.
_FIRST_LOOK, _LAST_LOOK = 0.02, 0.25  # seconds

logger = logging.getLogger(__name__)


class TritonWorker:
    """A `Worker`."""

    def __init__(self, runner: Runner, shared: SharedTensors, is_local: bool) -> None:
        """
        Args:
            runner: of the Triton.
            shared: for tensors by reference.
            is_local: whether its processes are on this machine, and not in a container.
        """
        self._is_local = is_local
        self._runner = runner
        self._api: TritonApi = runner.api
        self.shared = shared
        self._loads = asyncio.Semaphore(_LOADS)

    async def load(self, model: TritonModel) -> Opened:
        id, name = model.manifest.id, model.name
        request = Load(
            package=str(model.package.key),
            name=name,
            weight_formats=list(model.weight_formats),
            fingerprint=model.package.fingerprint,
            card=model.card,
        )
        process = await self._opened(request, model)
        if process.state == "ended":
            # Perhaps by no fault of its own: whoever kills processes meets some that are just being opened.
            logger.warning("%s: %s while it was being opened, trying once more", name, process.reason)
            process = await self._opened(request, model)
        if process.state == "none":
            # Another Triton, which has no such model: not the model's failure, and the load can be repeated at once.
            raise TritonUnavailable("it was started again while the model was being loaded")
        if process.state == "failed":
            with contextlib.suppress(RequestError, TritonUnavailable):
                await self.unload(name)  # its process holds what it has opened
        process.raise_unless_open(id)
        known = Process(process.pid, process.started) if self._is_local else None
        return Opened(process.weight_format, process.device, known, Memory.of(process))

    async def _opened(self, request: Load, model: TritonModel) -> ModelProcess:
        """The process of a model when it has opened its package, or cannot. Raises ModelNotLoaded where that takes too long."""
        limit, interval = self._api.run_timeout, _FIRST_LOOK
        async with self._loads:
            process = await self._process(request.model_dump())
        deadline = time.monotonic() + limit
        while process.state == "opening":
            if time.monotonic() > deadline:
                await self.end(model.name)
                raise ModelNotLoaded(model.manifest.id, f"it was not open after {limit:g} s")
            await asyncio.sleep(interval)
            interval = min(interval * 1.2, _LAST_LOOK)
            process = await self._process({"operation": "process", "name": model.name})
        return process

    def lives(self, opened: Opened) -> bool:
        return opened.process is None or opened.process.is_alive()

    async def unload(self, name: str) -> None:
        async with self._loads:
            await self._runner.ask({"operation": "unload", "name": name})

    async def end(self, name: str) -> None:
        await self._runner.ask({"operation": "end", "name": name})

    async def infer(
        self,
        model: TritonModel,
        arrays: Sequence[np.ndarray | SharedArray | None],
        parameters: Mapping[str, str],
        follower: Follower,
    ) -> list[np.ndarray]:
        names = [spec.id for spec in wanted_outputs(model.manifest, parameters)]
        size = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
        before = next((array.folder for array in arrays if isinstance(array, SharedArray)), None)
        with self.shared.folder() if before is None else contextlib.nullcontext(before) as folder:
            shared = await aside(size, SharedInputs, folder, arrays)
            inputs = [(spec.id, array) for spec, array in zip(model.manifest.inputs, shared.arrays) if array is not None]
            try:
                with followed(folder, follower):
                    result = await self._api.infer(model.name, inputs, names, parameters={**parameters, **shared.parameters})
            except TritonError as error:
                raise await self._explained(error, model) from None  # it may be the same one
            outputs = [result.outputs[name] for name in names]
            if folder is None:
                return outputs
            return await asyncio.to_thread(_read, folder, outputs) if _has_shared(folder, outputs) else outputs

    async def forward(
        self, model: TritonModel, version: str, body: Body, headers: Mapping[str, str], follower: Follower | None = None
    ) -> aiohttp.ClientResponse:
        suffix = f"/versions/{version}" if version else ""
        try:
            return await self._api.open("POST", f"/v2/models/{model.name}{suffix}/infer", body(), dict(headers))
        except TritonError as error:
            raise await self._explained(error, model) from None

    async def report(self) -> Report:
        return await self._runner.report()

    async def wait_until_ready(self) -> None:
        await self._runner.wait_until_ready()

    async def _process(self, operation: dict[str, Any]) -> ModelProcess:
        return ModelProcess.model_validate(await self._runner.ask(operation))

    async def _explained(self, error: TritonError, model: TritonModel) -> Exception:
        """What an error of Triton's about a model means: one of the request, or that its process is gone."""
        if (own := error.own_error) is not None:
            return ModelGone("another package has its name now") if own.code == OtherPackage.code else own
        if error.is_of_request and not may_be_gone(error.text):
            return error
        process = await self._process({"operation": "process", "name": model.name})
        if process.state != "open" or error.process_died or is_unloading(error.text):
            return ModelGone(process.reason or "its process has ended")
        if error.is_of_request:
            return error  # such as for another version of the Triton model
        logger.warning("%s: %s", model.name, error.text)
        return ModelFailed(model.manifest.id, "it gave no reason; the server's log has more")


def _has_shared(folder: SharedFolder, outputs: Sequence[np.ndarray]) -> bool:
    return any(folder.has(output_file(number)) for number in range(len(outputs)))


def _read(folder: SharedFolder, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs, those that are shared from their files. Raises TritonError for a file that is none of the model's."""
    try:
        return [
            folder.read(output_file(number)) if folder.has(output_file(number)) else output
            for number, output in enumerate(outputs)
        ]
    except (ValueError, OSError) as error:
        raise TritonError(f"a shared output cannot be read ({error})", 500) from error
