"""Whose turn it is: how many requests run at once, in all and for one model; the others wait here.

A free place goes to the caller who was served longest ago: whoever sends much waits behind his own requests, not before others'.
The requests of one caller run in the order in which they came. Only some may run of one model, so that a slow or stuck one never
takes all places; and large images leave one of these to small ones, which do not wait for their long runs to end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bioengine_server.access.errors import Busy
from bioengine_server.dispatch.errors import Stopping

# Callers of whom it is known when they were served last; more than may wait.
_MAX_REMEMBERED = 10_000

# Requests with more bytes count as large.
LARGE = 64_000_000

T = TypeVar("T")
OnMove = Callable[[int], None]
OnStop = Callable[[asyncio.Task[Any]], Coroutine[Any, Any, None]]


def _unmoved(position: int) -> None:
    pass


async def _left_to_end(task: asyncio.Task[Any]) -> None:
    pass


class NotWanted(Exception):
    """Whoever asked wants the result no more."""


class Queue:
    """The queue in front of the workers."""

    def __init__(self, total: int, per_model: int, size: int) -> None:
        """
        Args:
            total: requests that may run at once on one worker.
            per_model: of one model.
            size: requests that may wait.
        """
        self._total = self._total_each = total
        self._per_model = self._per_model_each = per_model
        self.size = size
        self._waiting: list[_Ticket] = []
        self._running: Counter[str] = Counter()
        self._running_large: Counter[str] = Counter()
        self._served: dict[str, int] = {}
        self._turns = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = asyncio.Event()

    def resize(self, workers: int) -> None:
        """So many workers are there, each of which runs as many requests at once."""
        self._total, self._per_model = self._total_each * workers, self._per_model_each * workers
        self._hand_out()

    def close(self) -> None:
        """Have all who wait, for a place or for what runs in theirs, told that nothing more comes."""
        self._closed.set()

    @property
    def per_model(self) -> int:
        """Requests that may run at once of one model."""
        return self._per_model

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have a place."""
        return self._running.total()

    @contextlib.asynccontextmanager
    async def place(self, model: str, on_move: OnMove = _unmoved, caller: str = "", size: int = 0) -> AsyncIterator[None]:
        """Hold a place for a request of `model`. Raises Busy.

        Args:
            model: names the model.
            on_move: told the request's position in the queue whenever that changes: 1 is next, 0 need not wait.
            caller: names who asks.
            size: bytes of the request.
        """
        of_model = self._running[model] + sum(ticket.model == model for ticket in self._waiting)
        # Half of the queue at most for one model, so that a stuck one leaves room to wait for the others.
        if self.waiting >= self.size or of_model >= max(self.size // 2, self._per_model):
            raise Busy(self.waiting)
        ticket = _Ticket(model, caller, on_move, asyncio.get_running_loop().create_future(), size > LARGE)
        self._waiting.append(ticket)
        # As if served just now: who comes new does not come before those who wait.
        self._served.setdefault(caller, self._turns)
        self._hand_out()
        try:
            await asyncio.shield(ticket.turn)
            yield
        finally:
            self._leave(ticket)

    async def run(
        self,
        model: str,
        work: Callable[[], Awaitable[T]],
        on_move: OnMove = _unmoved,
        caller: str = "",
        size: int = 0,
        stopped: asyncio.Event | None = None,
        on_stop: OnStop = _left_to_end,
    ) -> T:
        """`await work()` in a place of `model`.

        A caller who is cancelled leaves the queue; work that has begun holds its place until it ends, as Triton goes on with it.

        Args:
            model: names the model.
            work: what is to be done.
            on_move: told the request's position in the queue.
            caller: names who asks.
            size: bytes of the request.
            stopped: set when nobody wants the result any more.
            on_stop: ends work that had begun by then; given its task.

        Raises Busy, Stopping, NotWanted, and what `work` raises.
        """
        begun = asyncio.Event()

        async def in_place() -> T:
            async with self.place(model, on_move, caller, size):
                begun.set()
                return await work()

        task = asyncio.create_task(in_place())
        ends = [asyncio.create_task(event.wait()) for event in (self._closed, stopped) if event is not None]
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self._closed.is_set():
                raise Stopping
            if begun.is_set():
                self._beside(on_stop(task))
            raise NotWanted
        finally:
            for end in ends:
                end.cancel()
            if not begun.is_set():
                task.cancel()
            # It would keep what `work` raised, whose traceback has this frame: images stayed until the garbage collector came.
            del task

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where its caller has gone

    def _hand_out(self) -> None:
        """Give free places to those whose turn it is, and tell the others where they stand."""
        while (ticket := next(filter(self._may_run, self._in_turn()), None)) is not None:
            self._waiting.remove(ticket)
            self._running[ticket.model] += 1
            self._running_large[ticket.model] += ticket.is_large
            self._turns += 1
            self._served[ticket.caller] = self._turns
            ticket.has_place = True
            ticket.tell(0)
            ticket.turn.set_result(None)
        ahead: Counter[str] = Counter()
        for ticket in self._in_turn():
            ahead[ticket.model] += 1
            ticket.tell(ahead[ticket.model])
        if len(self._served) > _MAX_REMEMBERED:
            waiting = {ticket.caller for ticket in self._waiting}
            self._served = {caller: turn for caller, turn in self._served.items() if caller in waiting}

    def _may_run(self, ticket: _Ticket) -> bool:
        if self._running.total() >= self._total or self._running[ticket.model] >= self._per_model:
            return False
        if not ticket.is_large:
            return True
        others = self._running_large
        return others[ticket.model] < max(1, self._per_model - 1) and others.total() < max(1, self._total - 1)

    def _in_turn(self) -> list[_Ticket]:
        """Who waits, the next one first: each caller's first request, then each one's second, and so on."""
        counts: Counter[str] = Counter()
        rounds: dict[int, int] = {}
        for ticket in self._waiting:
            rounds[id(ticket)] = counts[ticket.caller]
            counts[ticket.caller] += 1
        return sorted(self._waiting, key=lambda ticket: (rounds[id(ticket)], self._served.get(ticket.caller, 0)))

    def _leave(self, ticket: _Ticket) -> None:
        if ticket.has_place:
            self._running[ticket.model] -= 1
            self._running_large[ticket.model] -= ticket.is_large
            if not self._running[ticket.model]:
                del self._running[ticket.model], self._running_large[ticket.model]
        else:
            self._waiting.remove(ticket)
            ticket.turn.cancel()
        self._hand_out()


@dataclass(eq=False)
class _Ticket:
    model: str
    caller: str
    on_move: OnMove
    turn: asyncio.Future[None]
    is_large: bool = False
    has_place: bool = False
    position: int = field(default=-1)

    def tell(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self.on_move(position)
