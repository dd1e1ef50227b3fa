"""A worker that has dialled in, as the server holds it: its lease, what it is to do, and what it says of itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable

from bioengine_contract.model_errors import Cancelled
from bioengine_contract.operations import Report

from bioengine_server.workers.errors import WorkerLost
from bioengine_server.workers.parcel import Parcel
from bioengine_server.workers.protocol import LANES, LEASE, Beat, Join, Lane, Orders
from bioengine_server.workers.worker import Follower

# A job that was handed over must be in the worker's hands in the beats after that.
_IN_HAND_AFTER = 3.0  # seconds

_SENDER = "whoever had sent it"


class Given:
    """A job for a worker."""

    def __init__(self, parcel: Parcel, follower: Follower | None) -> None:
        self.id = uuid.uuid4().hex
        self.parcel = parcel
        self.follower = follower
        self.answer: asyncio.Future[Parcel] = asyncio.get_running_loop().create_future()
        self.handed_over: float | None = None
        """When all of it was sent, on the monotonic clock."""
        self.is_taken = False

    @property
    def is_unwanted(self) -> bool:
        return self.answer.done() or (self.follower is not None and self.follower.stopped.is_set())

    def fail(self, error: Exception) -> None:
        """There is going to be no answer: whoever waits for it holds a place, and is told why."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Link:
    """One joining of a worker, until it leaves or its lease ends."""

    def __init__(self, name: str, join: Join) -> None:
        self.name = name
        self.join = join
        self.start = join.start
        self.host = join.host
        self.version = join.version
        self.places = join.places
        self.instance = uuid.uuid4().hex
        self.report: Report | None = None
        self.not_ready = "it is starting"
        self.leaving = False
        self.drained = False
        """Whether it is to leave once it has finished what it has in hand."""
        self.is_lost = False
        self.heard = time.monotonic()
        self.on_beat: Callable[[], None] = lambda: None
        self.ready = asyncio.Event()
        self._lanes: dict[Lane, asyncio.Queue[Given | None]] = {lane: asyncio.Queue() for lane in LANES}
        self._given: dict[str, Given] = {}

    @property
    def lease_is_over(self) -> bool:
        return time.monotonic() - self.heard > LEASE

    @property
    def takes_more(self) -> bool:
        """Whether requests should go to it."""
        return not (self.is_lost or self.leaving or self.drained or self.not_ready)

    async def ask(self, lane: Lane, parcel: Parcel, follower: Follower | None = None) -> Parcel:
        """The worker's answer to a parcel. Raises WorkerLost."""
        if self.is_lost or (self.leaving and lane == "runs"):
            raise WorkerLost(self.name, had_begun=False)
        given = Given(parcel, follower)
        self._given[given.id] = given
        self._lanes[lane].put_nowait(given)
        try:
            return await given.answer
        finally:
            del self._given[given.id]
            del given  # its future would keep what it raises, whose traceback has this frame, and so the images

    async def take(self, lane: Lane, timeout: float) -> Given | None:
        """What the worker is to do next; None where nothing has come up in time, or it is to do nothing more."""
        try:
            async with asyncio.timeout(timeout):
                while not self.is_lost:
                    given = await self._lanes[lane].get()
                    if given is None:
                        return None
                    if not given.is_unwanted:
                        given.is_taken = True
                        return given
                    given.fail(Cancelled(_SENDER))
        except TimeoutError:
            pass
        return None

    def give_back(self, given: Given) -> None:
        """A job did not get to the worker."""
        given.is_taken = False
        self._lose(given)

    def deliver(self, id: str, parcel: Parcel) -> bool:
        """Take the answer to a job; False where nobody waits for it any more."""
        given = self._given.get(id)
        if given is None or given.answer.done():
            return False
        given.answer.set_result(parcel)
        return True

    def beat(self, beat: Beat) -> Orders:
        """Take what the worker says of itself."""
        self.heard = time.monotonic()
        self.report = beat.report or self.report
        self.not_ready = beat.not_ready
        if beat.leaving and not self.leaving:
            self._take_no_more_runs()
        self.ready.set() if not beat.not_ready else self.ready.clear()
        in_hand, stop = set(beat.in_hand), []
        for given in list(self._given.values()):
            if given.follower is not None and (tile := beat.tiles.get(given.id)):
                given.follower.tile(*tile)
            if given.id in in_hand and given.is_unwanted:
                stop.append(given.id)
            elif given.handed_over is None and given.is_unwanted:
                given.fail(Cancelled(_SENDER))  # at once: its model's process would be ended for it, and it is not even there
            is_overdue = given.handed_over is not None and self.heard - given.handed_over > _IN_HAND_AFTER
            if is_overdue and given.id not in in_hand:
                self._lose(given)
        stop += in_hand - self._given.keys()
        self.on_beat()
        return Orders(stop=stop, drain=self.drained)

    def _take_no_more_runs(self) -> None:
        """What has not been taken yet is for others."""
        self.leaving = True
        runs = self._lanes["runs"]
        while not runs.empty():
            if (given := runs.get_nowait()) is not None:
                self._lose(given)
        for _ in range(self.places):
            runs.put_nowait(None)  # wakes those that wait there

    def lose(self) -> None:
        """The worker is gone: all that it was asked fails."""
        self.is_lost = True
        for given in list(self._given.values()):
            self._lose(given)
        for queue in self._lanes.values():
            for _ in range(self.places):
                queue.put_nowait(None)  # a worker that waits there joins again at once

    def _lose(self, given: Given) -> None:
        given.fail(WorkerLost(self.name, given.is_taken))
