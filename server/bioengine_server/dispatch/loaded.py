"""Which models are loaded on a worker: loaded when they are needed, and loaded again when their process has died.

The state is this process's own. What it does not know, such as the death of a model's process, the next request finds out, or
the worker's report tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bioengine_contract.errors import RemoteError, RequestError
from bioengine_contract.model_errors import EnvironmentGone, ModelProcessDied, RunDirUnusable, RunTookTooLong
from bioengine_contract.operations import Report
from bioengine_contract.triton_model import TritonModel

from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.workers.worker import ModelGone, Opened, Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)

# For this long a model that could not be loaded gets the same answer again, so that a crowd of requests for it does not
# load it over and over; another import of its package ends the wait at once.
FAILURE_REMEMBERED = 10.0  # seconds

# Failures of the server's, not of a model: over as soon as its admin has mended it.
_OF_SERVER = (EnvironmentGone.code, RunDirUnusable.code)


@dataclass
class ModelState:
    """What is known of a Triton model on a worker."""

    fingerprint: str = ""
    """Of the package that it was loaded from."""
    opened: Opened | None = None
    """None: it is not loaded."""
    generation: int = 0
    """Counts its loads."""
    failure: tuple[str, str] | None = None
    """Why its last load failed, as message and code: an exception would keep the images of all who got it."""
    changed: float = 0.0
    """When it was loaded, or failed to be, on the monotonic clock."""
    last_use: float = 0.0
    loading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def is_loaded_from(self, model: TritonModel) -> bool:
        return self.opened is not None and self.fingerprint == model.package.fingerprint


class LoadedModels:
    """The models of one worker."""

    def __init__(self, worker: Worker, run_timeout: float) -> None:
        """
        Args:
            worker: where they run.
            run_timeout: seconds that one run may take before it is ended.
        """
        self._worker = worker
        self._run_timeout = run_timeout
        self._models: dict[str, ModelState] = {}
        self._boot = ""

    def is_loaded(self, model: TritonModel) -> bool:
        """Whether a request finds it loaded, as far as is known."""
        state = self._state(model)
        if state.opened is not None and not self._worker.lives(state.opened):
            state.opened = None
        return state.is_loaded_from(model)

    def status(self) -> list[dict[str, Any]]:
        """Of each loaded model: `name` (in Triton), `weight_format`, `device`, and `idle`, the seconds since its last use."""
        now = time.monotonic()
        return [
            {
                "name": name,
                "weight_format": state.opened.weight_format,
                "device": state.opened.device,
                "idle": round(now - max(state.last_use, state.changed), 1),
            }
            for name, state in sorted(self._models.items())
            if state.opened is not None
        ]

    async def run(self, model: TritonModel, work: Callable[[Opened], Awaitable[T]]) -> T:
        """`await work(opened)` with the model loaded; where its process dies meanwhile, it is loaded and run once more.

        A request may thus be worked on twice; inference changes nothing, so the answer is the same.

        Raises RequestError: why it cannot be loaded, ModelProcessDied, RunTookTooLong, and what `work` raises; TritonUnavailable.
        """
        reason = ""
        for is_last in (False, True):
            generation = -1
            try:
                state = await self._ensure(model)
                generation, opened = state.generation, state.opened
                assert opened is not None
                return await self._in_time(model, generation, work(opened))
            except TritonUnavailable:
                if is_last:
                    raise
                await self._worker.wait_until_ready()
                self._lost(model, generation)  # to load a model that is there takes nothing
                self.learn(await self._worker.report())
            except ModelGone as error:
                logger.warning("%s: %s", model.name, error)
                self._lost(model, generation)
                reason = error.reason
        raise ModelProcessDied(model.manifest.id, reason)

    async def _in_time(self, model: TritonModel, generation: int, work: Awaitable[T]) -> T:
        """`await work`, or the end of the model's process. Raises RunTookTooLong, and what `work` raises."""
        try:
            async with asyncio.timeout(self._run_timeout) as limit:
                result = await work
        except TimeoutError:
            if not limit.expired():
                raise
            self._lost(model, generation)
            with contextlib.suppress(TritonUnavailable):
                await self._worker.end(model.name)
            raise RunTookTooLong(model.manifest.id, self._run_timeout) from None
        finally:
            del limit  # it would keep this task, with what `work` raised, whose traceback has this frame
        self._state(model).last_use = time.monotonic()
        return result

    def learn(self, report: Report) -> None:
        """Take what a worker reports: models whose processes have ended are not loaded any more."""
        if self._boot not in ("", report.boot):
            # Another Triton, without the models of the one before.
            for state in self._models.values():
                state.opened = None
        self._boot = report.boot
        for name, process in report.models.items():
            if process.state in ("ended", "failed") and (known := self._models.get(name)) is not None:
                if not known.loading.locked():
                    known.opened = None

    async def _ensure(self, model: TritonModel) -> ModelState:
        """The state of a model that is loaded. Raises RequestError, TritonUnavailable."""
        state = self._state(model)
        if self.is_loaded(model):
            return state
        async with state.loading:
            if state.is_loaded_from(model):
                return state
            is_same = state.fingerprint == model.package.fingerprint
            if state.failure is not None and is_same and time.monotonic() - state.changed < FAILURE_REMEMBERED:
                raise RemoteError(*state.failure)
            await self._load(model, state)
        return state

    async def _load(self, model: TritonModel, state: ModelState) -> None:
        started = time.monotonic()
        state.opened, state.failure = None, None
        state.fingerprint = model.package.fingerprint
        try:
            state.opened = await self._worker.load(model)
        except RequestError as error:
            state.failure = None if error.code in _OF_SERVER else (str(error), error.code)
            raise
        finally:
            state.generation += 1
            state.changed = time.monotonic()
        logger.info("Loaded %s in %.1f s", model.name, state.changed - started)

    def _lost(self, model: TritonModel, generation: int) -> None:
        """The process that a load has started is gone."""
        state = self._state(model)
        if state.generation == generation:
            state.opened = None

    def _state(self, model: TritonModel) -> ModelState:
        return self._models.setdefault(model.name, ModelState())
