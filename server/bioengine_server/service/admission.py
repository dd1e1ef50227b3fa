"""How many requests are let through to Triton, in all and for one model; the others wait here.

A router instance is taken for as long as its request runs. So at most `total` requests are in flight, fewer than there
are instances, and at most `per_model` of them for one model: a slow or stuck model never takes all routers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bioengine_server.errors import Busy


class Admission:
    """The door in front of one Triton."""

    def __init__(self, total: int, per_model: int, queue_size: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_model = per_model
        self._queue_size = queue_size
        self._models: dict[str, _ModelDoor] = {}
        self.waiting = 0

    @contextlib.asynccontextmanager
    async def admit(self, model: str) -> AsyncIterator[None]:
        """Hold a place for a request of `model`, in order of arrival for each model. Raises Busy."""
        door = self._models.setdefault(model, _ModelDoor(self._per_model))
        # Half of the queue at most for one model, so that a stuck one leaves room to wait for the others.
        if self.waiting >= self._queue_size or door.users >= max(self._queue_size // 2, self._per_model):
            raise Busy(self.waiting)
        door.users += 1
        try:
            # The model's own door first: who waits for it must not hold one of the places that all share.
            async with self._wait_for(door.semaphore), self._wait_for(self._total):
                yield
        finally:
            door.users -= 1
            if not door.users:
                self._models.pop(model, None)

    @contextlib.asynccontextmanager
    async def _wait_for(self, semaphore: asyncio.Semaphore) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            await semaphore.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            semaphore.release()


class _ModelDoor:
    def __init__(self, places: int) -> None:
        self.semaphore = asyncio.Semaphore(places)
        self.users = 0
