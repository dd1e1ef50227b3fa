"""Room for a model on a worker: what the others hold, and which of them go for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from bioengine_contract.triton_model import TritonModel, name_on_card

from bioengine_server.dispatch.budget import Budget
from bioengine_server.dispatch.errors import ModelTooLarge, NoRoom
from bioengine_server.dispatch.model_state import ModelState
from bioengine_server.dispatch.placement import Placement
from bioengine_server.workers.memory import Memory

# How long a model waits for others to end their runs, where all memory is held by models at work.
_PATIENCE = 120.0  # seconds


@dataclass
class Kept:
    """Names of Triton models that are never unloaded to make room, or for being idle."""

    own: frozenset[str]
    """The server's own, which are beside the budget."""
    always: set[str] = field(default_factory=set)
    """Those of BIOENGINE_PRELOAD."""

    def has(self, base_name: str) -> bool:
        return base_name in self.own or base_name in self.always


class Room:
    """Of one worker."""

    def __init__(
        self,
        models: dict[str, ModelState],
        budget: Budget,
        placement: Placement,
        kept: Kept,
        unload: Callable[[str], Awaitable[bool]],
    ) -> None:
        """
        Args:
            models: by their names in Triton.
            budget: of their memory.
            placement: on the worker's cards.
            kept: those that stay.
            unload: unloads one that no request wants.
        """
        self._models = models
        self._budget = budget
        self._placement = placement
        self._kept = kept
        self._unload = unload
        self._making = asyncio.Lock()
        self.run_ended = asyncio.Event()
        """To be set when a request has ended: its model may go."""

    async def make(self, model: TritonModel, state: ModelState) -> None:
        """Have as much memory free as a model needs, which counts as held from then on. Raises ModelTooLarge, NoRoom."""
        if model.name in self._kept.own:
            return
        need = self._budget.need(model.package, model.weight_formats, state.at_rest)
        started = time.monotonic()
        while not await self._made(model, state, need):
            if setting := self._budget.exceeded(need + self.held(of=self._kept.always)):
                raise ModelTooLarge(model.manifest.id, need, self._budget.limit, setting)
            if (waited := time.monotonic() - started) > _PATIENCE:
                raise NoRoom(model.manifest.id, waited, self._budget.exceeded(self.held() + need))
            self.run_ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.run_ended.wait()

    def has_room_for(self, model: TritonModel, state: ModelState) -> bool:
        """Whether a model could be loaded without unloading another one."""
        need = self._budget.need(model.package, model.weight_formats, state.at_rest)
        return self._to_unload(need) == []

    def held(self, of: set[str] | None = None) -> Memory:
        """What models hold, with those that are being loaded, but for the server's own.

        Args:
            of: base names of the models; None: all.
        """
        held = Memory()
        for state in self._models.values():
            if state.base_name not in self._kept.own and (of is None or state.base_name in of):
                held += state.memory
        return held

    def idle(self) -> list[tuple[str, ModelState]]:
        """Models that may be unloaded, the one that was used longest ago first."""
        found = [(name, state) for name, state in self._models.items() if state.is_idle and not self._kept.has(state.base_name)]
        return sorted(found, key=lambda each: max(each[1].last_use, each[1].changed))

    def beyond_limits(self) -> Iterator[str]:
        """One idle model after the other, for as long as all together hold too much."""
        if not self._making.locked():
            for name, _ in self.idle():
                if not self._budget.exceeded(self.held()):
                    return
                yield name

    async def _made(self, model: TritonModel, state: ModelState, need: Memory) -> bool:
        """Whether there is room now, after idle models have been unloaded for it. Others may have theirs made before."""
        async with self._making:
            names = self._to_unload(need)
            if names is None:
                return False
            state.memory = need
            names += [name for name in self._on_full_card(model.card, need.cards) if name not in names]
            for name in names:
                await self._unload(name)
            return True

    def _to_unload(self, need: Memory) -> list[str] | None:
        return self._budget.to_unload(self.held() + need, ((name, state.memory) for name, state in self.idle()))

    def _on_full_card(self, card: int | None, need: int) -> list[str]:
        """Idle models that make room on one card for what it lacks."""
        names: list[str] = []
        if card is None:
            return names
        lacks = need - self._placement.free(card)
        for name, state in self.idle():
            # Of one that was found, nothing but its name says where it is.
            is_there = (
                name == name_on_card(state.base_name, card) if state.opened is None else state.opened.device == f"cuda:{card}"
            )
            if lacks > 0 and is_there:
                names.append(name)
                lacks -= state.memory.cards
        return names
