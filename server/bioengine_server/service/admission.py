"""How many requests are let through to Triton, in all and for one model; the others wait here.

A router instance is taken for as long as its request runs. So at most `total` requests are in flight, fewer than there
are instances, and at most `per_model` of them for one model: a slow or stuck model never takes all routers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from bioengine_server.errors import Busy, Stopping

T = TypeVar("T")
OnMove = Callable[[int], None]


def _unmoved(position: int) -> None:
    pass


class Admission:
    """The door in front of one Triton."""

    def __init__(self, total: int, per_model: int, queue_size: int) -> None:
        self._total = _Door(total)
        self._per_model = per_model
        self.queue_size = queue_size
        self._models: dict[str, _Door] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = asyncio.Event()

    def close(self) -> None:
        """Have all who wait, for a place or for what runs in theirs, told that nothing more comes."""
        self._closed.set()

    @property
    def waiting(self) -> int:
        """Requests that wait for their place."""
        return sum(door.waiting for door in (self._total, *self._models.values()))

    @contextlib.asynccontextmanager
    async def admit(self, model: str, on_move: OnMove = _unmoved) -> AsyncIterator[None]:
        """Hold a place for a request of `model`, in order of arrival for each model. Raises Busy.

        Args:
            model: whose door.
            on_move: told the request's position in the queue whenever that changes: 1 is next, 0 need not wait.
        """
        door = self._models.setdefault(model, _Door(self._per_model))
        # Half of the queue at most for one model, so that a stuck one leaves room to wait for the others.
        if (waiting := self.waiting) >= self.queue_size or door.users >= max(self.queue_size // 2, self._per_model):
            raise Busy(waiting)
        door.users += 1
        try:
            # The model's own door first: who waits for it must not hold one of the places that all share.
            async with door.place(on_move), self._total.place(on_move):
                yield
        finally:
            door.users -= 1
            if not door.users:
                self._models.pop(model, None)

    async def run(self, model: str, work: Callable[[], Awaitable[T]], on_move: OnMove = _unmoved) -> T:
        """`await work()` in a place of `model`. Raises Busy, Stopping, and what `work` raises.

        A caller who is cancelled leaves the queue; work that has begun holds its place until it ends, as Triton goes on with it.
        """
        begun = asyncio.Event()

        async def in_place() -> T:
            async with self.admit(model, on_move):
                begun.set()
                return await work()

        task = asyncio.create_task(in_place())
        closed = asyncio.create_task(self._closed.wait())
        self._running.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task, closed}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopping
        finally:
            closed.cancel()
            if not begun.is_set():
                task.cancel()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where its caller has gone


class _Door:
    """Places, and the queue for them, first come, first served."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._queue: list[_Ticket] = []
        self.users = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @contextlib.asynccontextmanager
    async def place(self, on_move: OnMove) -> AsyncIterator[None]:
        ticket = _Ticket(on_move)
        self._queue.append(ticket)
        ticket.on_move(len(self._queue) if self._places.locked() else 0)
        try:
            await self._places.acquire()
        finally:
            self._leave(ticket)
        try:
            yield
        finally:
            self._places.release()

    def _leave(self, ticket: _Ticket) -> None:
        position = self._queue.index(ticket)
        del self._queue[position]
        for number, other in enumerate(self._queue[position:], start=position + 1):
            other.on_move(number)


@dataclass(eq=False)
class _Ticket:
    on_move: OnMove
