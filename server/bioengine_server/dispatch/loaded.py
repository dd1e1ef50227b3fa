"""Which models are loaded on a worker: loaded when they are needed, unloaded when their memory is, and loaded again when their
process has died.

The state is this process's own. What it does not know, such as the death of a model's process, the next request finds out, or
the worker's report tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bioengine_contract.errors import RemoteError, RequestError
from bioengine_contract.model_errors import EnvironmentGone, ModelNotLoaded, ModelProcessDied, RunDirUnusable, RunTookTooLong
from bioengine_contract.operations import Report
from bioengine_contract.triton_model import TritonModel, base_name

from bioengine_server.dispatch.budget import Budget, has_grown
from bioengine_server.dispatch.errors import ModelTooLarge, NoRoom
from bioengine_server.dispatch.model_state import ModelState
from bioengine_server.dispatch.placement import Placement
from bioengine_server.dispatch.room import Kept, Room
from bioengine_server.triton.errors import NoAnswer, TritonUnavailable
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import ModelGone, Opened, Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)

# For this long a model that could not be loaded gets the same answer again, so that a crowd of requests for it does not
# load it over and over: twice as long after each further failure. Another import of its package ends the wait at once.
FAILURE_REMEMBERED, MAX_REMEMBERED = 10.0, 300.0  # seconds

# Ends of a model's process by ourselves that one request lives through: for a run beside it that took too long, or was cancelled.
_MAX_RESTARTS = 5

# A process that has not given back a large run's memory by then does not.
_GIVES_BACK_WITHIN = 30.0  # seconds

# Where a load fails for a reason that may be the worker's, a load of the server's own model tells; not more often than that.
_LOOKS_APART = 30.0  # seconds

EVENTS = ("loads", "failed_loads", "unloads", "deaths")
"""What is counted; `deaths`: of models' processes that nobody here has ended."""

# Failures of the server's, not of a model: over as soon as its admin has mended it, or others need less.
_NOT_OF_MODEL = (EnvironmentGone.code, RunDirUnusable.code, NoRoom.code, ModelTooLarge.code)
_PERHAPS_OF_WORKER = (ModelNotLoaded.code, NoAnswer.code)


@dataclass(frozen=True)
class Loaded:
    """A model that a request has found loaded."""

    model: TritonModel
    """On the card that it was loaded on."""
    opened: Opened
    worker: Worker
    end: Callable[[], Awaitable[None]]
    """Ends its process, with all that it is working on; other requests that run there are run again."""


Work = Callable[[Loaded], Awaitable[T]]


class LoadedModels:
    """The models of one worker."""

    def __init__(
        self,
        worker: Worker,
        run_timeout: float,
        budget: Budget,
        placement: Placement,
        keep: float,
        kept: Kept,
        counts: Counter[str],
    ) -> None:
        """
        Args:
            worker: where they run.
            run_timeout: seconds that one run may take before it is ended.
            budget: of their memory.
            placement: on the worker's cards.
            keep: seconds that a model stays loaded after its last use; below 0: until its memory is needed.
            kept: models that are never unloaded to make room, or for being idle.
            counts: counts what happens here (`EVENTS`).
        """
        self._worker = worker
        self._run_timeout = run_timeout
        self._budget = budget
        self._placement = placement
        self._copies: set[asyncio.Task[None]] = set()
        self._keep = keep
        self._models: dict[str, ModelState] = {}
        self._boot = ""
        self._kept = kept
        self._room = Room(self._models, budget, placement, kept, self.unload)
        self._is_in_doubt = False
        self._looked = -_LOOKS_APART
        self._counts = counts

    @property
    def limit(self) -> Memory:
        """What all models together may hold."""
        return self._budget.limit

    @property
    def held(self) -> Memory:
        """What all models together hold."""
        return self._room.held()

    def is_loaded(self, model: TritonModel) -> bool:
        """Whether a request finds it loaded, on whichever card, as far as is known."""
        return any(self._is_loaded(each) for each in self._on_cards(model))

    def is_loading(self, model: TritonModel) -> bool:
        """Whether it is being loaded, on whichever card."""
        return any(self._state(each).loading.locked() for each in self._on_cards(model))

    def has_room_for(self, model: TritonModel) -> bool:
        """Whether it could be loaded without unloading another one."""
        return self._room.has_room_for(model, self._state(model))

    def load_seconds(self, model: TritonModel) -> float | None:
        """How long its last load has taken; None: it was not loaded here."""
        return max((self._state(each).load_seconds for each in self._on_cards(model)), default=0.0) or None

    async def prepare(self, model: TritonModel) -> None:
        """Have it loaded, without a request that waits for it; what goes wrong is logged."""
        try:
            await self._ensure(self._placed(model))
        except (RequestError, TritonUnavailable) as error:
            logger.warning("%s: not loaded beforehand: %s", model.name, error)

    def _is_loaded(self, model: TritonModel) -> bool:
        state = self._state(model)
        if state.opened is not None and not self._worker.lives(state.opened):
            self._died(state)
        return state.is_loaded_from(model)

    def status(self) -> list[dict[str, Any]]:
        """Of each loaded model: `name` (in Triton), `base_name` (on whichever card), `weight_format`, `device`, `idle` (seconds
        since its last use), `memory` and `gpu_memory` (bytes), and `running`, the requests that want it."""
        return [
            {
                "name": name,
                "base_name": state.base_name,
                "weight_format": state.opened.weight_format,
                "device": state.opened.device,
                "idle": 0.0 if state.gate.inside else round(state.idle_for(), 1),
                "memory": state.memory.host,
                "gpu_memory": state.memory.cards,
                "running": state.gate.inside,
            }
            for name, state in sorted(self._models.items())
            if state.opened is not None
        ]

    async def run(
        self, model: TritonModel, work: Work[T], check: Callable[[], None], tell: Callable[[str], None] = lambda state: None
    ) -> T:
        """`await work(loaded)` with the model loaded; where its process dies meanwhile, it is loaded and run once more.

        A request may thus be worked on twice; inference changes nothing, so the answer is the same. The second time it runs with
        no other request of the model beside it: of several that a process died with, only the one that is to blame fails.

        Args:
            model: the model.
            work: with the model.
            check: raises where the result is not wanted any more.
            tell: is told "loading" where the request waits until the model is loaded, each time that it does.

        Raises RequestError: why it cannot be loaded, ModelProcessDied, RunTookTooLong, and what `work` and `check` raise;
        TritonUnavailable where the worker is away.
        """
        if not self._boot:  # the cards are not known before
            with contextlib.suppress(RequestError, TritonUnavailable, ValueError):
                self.learn(await self._worker.report())
        wanted, reason = model, ""
        deaths = restarts = 0
        while deaths < 2 and restarts < _MAX_RESTARTS:
            model, generation = self._placed(wanted), -1
            state = self._state(model)
            if deaths:
                tell("loading")  # now: to be run alone, it waits for others
            try:
                async with state.gate.alone() if deaths else state.gate.beside_others():
                    check()
                    await self._ensure(model, tell)
                    check()
                    generation, opened = state.generation, state.opened
                    assert opened is not None
                    loaded = Loaded(model, opened, self._worker, partial(self.end, model.name))
                    return await self._in_time(model, generation, work(loaded))
            except TritonUnavailable:
                self._lost(model, generation)  # to load a model that is there takes nothing
                raise
            except ModelGone as error:
                logger.warning("%s: %s", model.name, error)
                self._lost(model, generation)
                reason = error.reason
                if generation == state.ended:
                    restarts += 1
                else:
                    deaths += 1
            finally:
                self._room.run_ended.set()
        raise ModelProcessDied(model.manifest.id, reason)

    async def end(self, name: str) -> None:
        """End a model's process, with all that it is working on; other requests that run there are run again."""
        if (state := self._models.get(name)) is not None and state.opened is not None:
            state.ended, state.opened = state.generation, None
        with contextlib.suppress(TritonUnavailable):
            await self._worker.end(name)

    async def unload(self, name: str) -> bool:
        """Unload a model that no request wants; its memory is free then. False where one does, or it is not loaded."""
        state = self._models.get(name)
        if state is None or not state.is_idle:
            return False
        state.opened, state.is_found = None, False
        async with state.loading:
            if state.opened is None:
                with contextlib.suppress(TritonUnavailable, RequestError):
                    await self._worker.unload(name)
                state.memory = Memory()
                self._counts["unloads"] += 1
                logger.info("Unloaded %s", name)
        return True

    async def tidy(self) -> None:
        """Unload what has been idle for long, what does not give back its memory, and what is beyond the limits."""
        if self._is_in_doubt and time.monotonic() - self._looked > _LOOKS_APART:
            # A worker that cannot load models runs those that are loaded, the probe's as well: it has to be loaded anew.
            self._is_in_doubt, self._looked = False, time.monotonic()
            for name in self._kept.own:
                await self.unload(name)
        for name, state in self._room.idle():
            idle = state.idle_for()
            if 0 <= self._keep <= idle:
                await self.unload(name)
            elif idle > _GIVES_BACK_WITHIN and has_grown(state.memory, state.at_rest):
                logger.info("%s holds %.1f GB that it took for a large run: its process is ended", name, state.memory.host / 1e9)
                await self.unload(name)
        for name in self._room.beyond_limits():
            await self.unload(name)

    async def _in_time(self, model: TritonModel, generation: int, work: Awaitable[T]) -> T:
        """`await work`, or the end of the model's process. Raises RunTookTooLong, and what `work` raises."""
        try:
            async with asyncio.timeout(self._run_timeout) as limit:
                result = await work
        except TimeoutError:
            if not limit.expired():
                raise
            if self._state(model).generation == generation:
                await self.end(model.name)
            raise RunTookTooLong(model.manifest.id, self._run_timeout) from None
        finally:
            del limit  # it would keep this task, with what `work` raised, whose traceback has this frame
        self._state(model).last_use = time.monotonic()
        return result

    def learn(self, report: Report) -> None:
        """Take what a worker reports: models whose processes have ended are not loaded any more, and what the others hold."""
        if self._boot not in ("", report.boot):
            # Another Triton, without the models of the one before.
            for state in self._models.values():
                state.opened, state.memory, state.is_found = None, Memory(), False
        self._boot = report.boot
        self._budget.learn(report)
        self._placement.learn(report.cards)
        for name, process in report.models.items():
            known = self._models.get(name)
            if known is None and process.state == "open":
                # Loaded by an earlier server, or by somebody who asks Triton itself: it holds memory as well.
                known = self._models[name] = ModelState(base_name(name), changed=time.monotonic())
            if known is None or known.loading.locked():
                continue
            if process.state in ("ended", "failed"):
                self._died(known)
            elif process.state == "open":
                known.memory = Memory.of(process)
                # If it is not known to be there, such as after an answer that has not come, it can make room again.
                known.is_found = known.opened is None
        for name, known in self._models.items():
            if name not in report.models and known.opened is None and not known.loading.locked():
                known.memory, known.is_found = Memory(), False  # such as of a report that was older than its end

    async def _ensure(self, model: TritonModel, tell: Callable[[str], None] = lambda state: None) -> None:
        """Have a model loaded; `tell` is told "loading" where it is not. Raises RequestError, TritonUnavailable."""
        state = self._state(model)
        if self._is_loaded(model):
            return
        tell("loading")
        async with state.loading:
            if state.is_loaded_from(model):
                return
            is_same = state.fingerprint == model.package.fingerprint
            remembered = min(FAILURE_REMEMBERED * 2 ** (state.failures - 1), MAX_REMEMBERED)
            if state.failure is not None and is_same and time.monotonic() - state.changed < remembered:
                raise RemoteError(*state.failure)
            await self._load(model, state)

    async def _load(self, model: TritonModel, state: ModelState) -> None:
        started = time.monotonic()
        if state.fingerprint != model.package.fingerprint:
            state.at_rest, state.failures = Memory(), 0
        state.opened, state.failure, state.is_found = None, None, False
        state.fingerprint = model.package.fingerprint
        try:
            await self._room.make(model, state)
            state.opened = await self._worker.load(model)
            state.memory = state.at_rest = state.opened.memory
            state.failures = 0
        except (RequestError, TritonUnavailable) as error:
            self._counts["failed_loads"] += 1
            self._is_in_doubt |= error.code in _PERHAPS_OF_WORKER
            if isinstance(error, RequestError) and error.code not in _NOT_OF_MODEL:
                state.failure, state.failures = (str(error), error.code), state.failures + 1
            raise
        finally:
            if state.opened is None:
                state.memory = Memory()
            state.generation += 1
            state.changed = time.monotonic()
        state.load_seconds = state.changed - started
        self._counts["loads"] += 1
        logger.info("Loaded %s in %.1f s", model.name, state.load_seconds)

    def _lost(self, model: TritonModel, generation: int) -> None:
        """The process that a load has started is gone."""
        state = self._state(model)
        if state.generation == generation:
            self._died(state)

    def _died(self, state: ModelState) -> None:
        self._counts["deaths"] += state.opened is not None
        state.opened, state.memory, state.is_found = None, Memory(), False

    def _state(self, model: TritonModel) -> ModelState:
        state = self._models.get(model.name)
        if state is None:
            state = self._models[model.name] = ModelState(model.base_name)
        return state

    def _on_cards(self, model: TritonModel) -> list[TritonModel]:
        """The model on each card that it may be on; as it is where there is no choice."""
        return [model.on_card(card) for card in self._placement.cards] or [model]

    def _placed(self, model: TritonModel) -> TritonModel:
        """The model on the card where a request runs; where all of its copies are busy, another one begins to be loaded."""
        if model.name in self._kept.own or not self._placement.cards:
            return model
        on_cards = {each.card or 0: each for each in self._on_cards(model)}
        loaded = [card for card, each in on_cards.items() if self._is_loaded(each)]
        need = self._budget.need(model.package, model.weight_formats, Memory()).cards

        def requests(card: int) -> int:
            return self._state(on_cards[card]).gate.inside

        copy = self._placement.further(loaded, requests, need)
        if copy is not None and not self._state(on_cards[copy]).loading.locked():
            self._placement.promise(copy, need)
            task = asyncio.create_task(self._load_copy(on_cards[copy]))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)
        starting = [card for card, each in on_cards.items() if self._state(each).loading.locked()]
        card = self._placement.choose(loaded or starting, requests)
        assert card is not None
        if not loaded and card not in starting:
            self._placement.promise(card, need)
        return on_cards[card]

    async def _load_copy(self, model: TritonModel) -> None:
        try:
            await self._ensure(model)
        except (RequestError, TritonUnavailable) as error:
            logger.warning("%s: not loaded a second time: %s", model.name, error)
