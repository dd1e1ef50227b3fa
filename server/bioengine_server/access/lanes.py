"""A bounded number of places, shared fairly between callers: a caller with many requests waits, and does not delay others.

It is used for requests that do not run a model: metadata requests, descriptions from the collection, downloads. Requests that run
a model wait in `dispatch.queue`, where each model has its own queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any

from bioengine_contract.errors import BioEngineError

from bioengine_server.access.caller import Caller
from bioengine_server.access.errors import Busy


class OwnRequestsWait(Busy):
    """One caller has too many waiting requests; other callers are served meanwhile."""

    code = "own_requests_wait"

    def __init__(self, waiting: int) -> None:
        BioEngineError.__init__(
            self,
            f"{waiting} of your requests are waiting already, which is the limit. Wait for one to finish, then send the next.",
        )


@dataclass(frozen=True)
class LaneLimits:
    """The size of a lane, and how much of it one caller may use."""

    places: int
    """How many requests may be worked on at once."""
    queue: int
    """How many requests may wait, of all callers together."""
    caller_places: int
    caller_queue: int
    anonymous_places: int
    """How many places all callers without a token may use together, because each of their connections looks like a new caller."""
    patience: float
    """How many seconds a request may wait."""


class Lane:
    """Places for which callers wait: the next free place goes to the caller who was served longest ago."""

    def __init__(self, limits: LaneLimits) -> None:
        self._limits = limits
        self._held: Counter[str] = Counter()
        self._anonymous_held = 0
        # The waiting callers, in the order of their turns, each with its requests in order.
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a place."""
        return sum(len(queue) for queue in self._queues.values())

    async def enter(self, caller: Caller | None) -> Place:
        """Wait for a place, which its holder gives back with `leave`. Raises Busy.

        Args:
            caller: the client; None for the server's admin.
        """
        key, anonymous = _key(caller), caller is not None and not caller.token
        queue = self._queues.get(key, deque())
        if self.waiting >= self._limits.queue:
            raise Busy(self.waiting)
        if len(queue) >= self._limits.caller_queue:
            raise OwnRequestsWait(len(queue))
        waiting = _Waiting(asyncio.get_running_loop().create_future(), anonymous)
        self._queues.setdefault(key, queue).append(waiting)
        self._hand_out()
        try:
            async with asyncio.timeout(self._limits.patience):
                return await asyncio.shield(waiting.place)
        except BaseException as error:
            self._give_up(key, waiting)
            if isinstance(error, TimeoutError):
                raise Busy(self.waiting) from None
            raise

    @contextlib.asynccontextmanager
    async def place(self, caller: Caller | None) -> AsyncIterator[None]:
        """Hold a place while the context lasts. Raises Busy."""
        place = await self.enter(caller)
        try:
            yield
        finally:
            place.leave()

    def _hand_out(self) -> None:
        """Give free places to those who wait for them."""
        while self._held.total() < self._limits.places:
            key = next((key for key, queue in self._queues.items() if self._may_have_one(key, queue[0])), None)
            if key is None:
                return
            waiting = self._queues[key].popleft()
            self._queues.move_to_end(key)
            if not self._queues[key]:
                del self._queues[key]
            self._held[key] += 1
            self._anonymous_held += waiting.anonymous
            waiting.place.set_result(Place(self, key, waiting.anonymous))

    def _may_have_one(self, key: str, waiting: _Waiting) -> bool:
        if waiting.anonymous and self._anonymous_held >= self._limits.anonymous_places:
            return False
        return self._held[key] < self._limits.caller_places

    def _give_up(self, key: str, waiting: _Waiting) -> None:
        if waiting.place.done():
            waiting.place.result().leave()
            return
        waiting.place.cancel()
        self._queues[key].remove(waiting)
        if not self._queues[key]:
            del self._queues[key]

    def _leave(self, place: Place) -> None:
        self._held[place.key] -= 1
        if not self._held[place.key]:
            del self._held[place.key]
        self._anonymous_held -= place.anonymous
        self._hand_out()


@dataclass(eq=False)
class _Waiting:
    place: asyncio.Future[Place]
    anonymous: bool


class Place:
    """A place in a lane."""

    def __init__(self, lane: Lane, key: str, anonymous: bool) -> None:
        self._lane: Lane | None = lane
        self.key = key
        self.anonymous = anonymous

    def leave(self) -> None:
        """Give the place back. Further calls have no effect."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane._leave(self)


class SharedWork:
    """Work in a lane that is done once for all callers who request the same meanwhile, even if one of them gives up."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}
        # Those who wait for a place to begin work: what it has become, and what ends the waiting.
        self._waiting: dict[Hashable, list[tuple[asyncio.Future[asyncio.Task[Any]], asyncio.Timeout]]] = {}

    async def once(self, key: Hashable, caller: Caller | None, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `work`. Raises Busy, and what `work` raises.

        Args:
            key: identifies the work; a caller of work that is in progress needs no place of its own.
            caller: the client.
            work: does the work, if it is not in progress.
        """
        task = self._under_way.get(key) or await self._begun(key, caller, work)
        return await asyncio.shield(task)

    def is_under_way(self, key: Hashable) -> bool:
        return key in self._under_way

    async def _begun(self, key: Hashable, caller: Caller | None, work: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        """The work: begun here when there is a place, or by another caller who has got one first. Raises Busy."""
        begun: asyncio.Future[asyncio.Task[Any]] = asyncio.get_running_loop().create_future()
        entry = (begun, asyncio.timeout(None))
        place: Place | None = None
        waiting = self._waiting.setdefault(key, [])
        waiting.append(entry)
        try:
            with contextlib.suppress(TimeoutError):  # another caller has begun it
                async with entry[1]:
                    place = await self._lane.enter(caller)
        finally:
            waiting.remove(entry)
            if not waiting:
                del self._waiting[key]
        if place is not None and not begun.done():
            return self._begin(key, place, work)
        if place is not None:
            place.leave()
        return begun.result()

    def _begin(self, key: Hashable, place: Place, work: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        def end(ended: asyncio.Task[Any]) -> None:
            del self._under_way[key]
            place.leave()
            if not ended.cancelled():
                ended.exception()  # retrieves the exception even if all callers have gone, so that asyncio does not log it

        self._under_way[key] = task = asyncio.ensure_future(work())
        task.add_done_callback(end)
        for begun, patience in self._waiting.get(key, ()):
            if not begun.done():
                begun.set_result(task)
                patience.reschedule(asyncio.get_running_loop().time())
        return task


def _key(caller: Caller | None) -> str:
    return "admin" if caller is None else caller.key
