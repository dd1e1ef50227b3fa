"""Takes work from the server for as long as a joining lasts, and joins again when it has ended.

One loop beats, one for each place takes images, and some take orders, which only wait. A server that was started again, or that
has not heard of this worker for as long as a lease lasts, answers with 410: the worker joins anew, and what it still works on is
ended, since its answer would come too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from bioengine_contract.operations import Report

from bioengine_server.worker_side.inbox import inbox
from bioengine_server.worker_side.jobs import Followed, Jobs
from bioengine_server.worker_side.server import NotJoinedAnyMore, Refused, Server, ServerAway
from bioengine_server.workers.errors import NameTaken
from bioengine_server.workers.parcel import Parcel
from bioengine_server.workers.protocol import BEAT_INTERVAL, LEASE, Beat, Join, Joined, Lane

logger = logging.getLogger(__name__)

_ORDERS = 2  # loops that take orders
_RETRY_INTERVAL = 0.5  # seconds between two tries to reach the server
_ANSWER_TRIES = 3


class Puller:
    """Of one worker."""

    def __init__(self, server: Server, join: Callable[[], Join], jobs: Jobs, places: int) -> None:
        """
        Args:
            server: to work for.
            join: what it is told.
            jobs: does the work.
            places: images at once.
        """
        self._server = server
        self._join = join
        self._jobs = jobs
        self._places = places
        self._in_hand: dict[str, Followed] = {}
        self.not_ready = "it is starting"
        self.report: Report | None = None
        self.leaving = asyncio.Event()
        """Set when it is to take nothing more, finish, and leave."""
        self.on_joined: Callable[[Joined], None] = lambda joined: None
        self.on_lost: Callable[[], None] = lambda: None

    async def join(self) -> Joined | None:
        """Join, as soon as the server can be reached; None where the worker is to leave before that. Raises Refused."""
        was_told, since = "", time.monotonic()
        while True:
            try:
                return await self._server.join(self._join())
            except Refused as error:
                # Its lease, if it was this worker that ended without leaving, is over by then.
                if error.code != NameTaken.code or time.monotonic() - since > LEASE + 1:
                    raise
            except ServerAway as error:
                if str(error) != was_told:
                    logger.warning("The server %s cannot be reached (%s): trying again", self._server.url, error)
                    was_told = str(error)
            if self.leaving.is_set():
                return None
            await asyncio.sleep(_RETRY_INTERVAL)

    async def work(self, joined: Joined | None) -> None:
        """Work until it is to leave, joining again where that is needed. Raises Refused."""
        while joined is not None:
            self.on_joined(joined)
            if await self._work_while_joined():
                return
            self.on_lost()
            logger.warning("The server no longer knows this worker: joining again")
            joined = await self.join()

    async def _work_while_joined(self) -> bool:
        """Whether it has left, and not lost its lease. Raises Refused."""
        runs = [asyncio.create_task(self._take_runs()) for _ in range(self._places)]
        beats = asyncio.create_task(self._beat())
        beside = [beats, *(asyncio.create_task(self._take_orders()) for _ in range(_ORDERS))]
        finished = asyncio.gather(*runs)
        try:
            ends: list[asyncio.Future[Any]] = [finished, *beside]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
            with contextlib.suppress(ServerAway):  # its lease ends by itself
                await self._server.leave()
            return True
        except NotJoinedAnyMore:
            return self.leaving.is_set() and not self._in_hand
        finally:
            for followed in self._in_hand.values():
                followed.stopped.set()
            for task in (*runs, *beside):
                task.cancel()
            await asyncio.gather(*runs, *beside, return_exceptions=True)
            with contextlib.suppress(asyncio.CancelledError, NotJoinedAnyMore, Refused):
                await finished

    async def _beat(self) -> None:
        """Raises NotJoinedAnyMore, Refused."""
        heard, told = time.monotonic(), None
        while True:
            report = self.report
            tiles = {job: followed.at for job, followed in self._in_hand.items() if followed.at is not None}
            not_ready = self.not_ready or ("its Triton does not answer" if self._jobs.is_away else "")
            beat = Beat(
                report=None if report is told else report,  # an old one might say of a model what is true no more
                not_ready=not_ready[:300],
                tiles=tiles,
                in_hand=list(self._in_hand),
                leaving=self.leaving.is_set(),
            )
            try:
                orders = await self._server.beat(beat)
            except ServerAway as error:
                if time.monotonic() - heard > LEASE:
                    raise NotJoinedAnyMore(str(error)) from error
                await asyncio.sleep(_RETRY_INTERVAL)
                continue
            heard, told = time.monotonic(), report
            for job in orders.stop:
                if followed := self._in_hand.get(job):
                    followed.stopped.set()
            if orders.drain and not self.leaving.is_set():
                logger.info("The server's admin has this worker drained: it finishes what it has in hand, and leaves")
                self.leaving.set()
                continue
            if not beat.leaving:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_INTERVAL):
                        await self.leaving.wait()
            else:
                await asyncio.sleep(BEAT_INTERVAL)

    async def _take_runs(self) -> None:
        """Until it is leaving. Raises NotJoinedAnyMore, Refused."""
        while not self.leaving.is_set():
            await self._take("runs", beside=None)

    async def _take_orders(self) -> None:
        """Raises NotJoinedAnyMore, Refused."""
        beside: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._take("orders", beside)
        finally:
            for task in beside:
                task.cancel()

    async def _take(self, lane: Lane, beside: set[asyncio.Task[None]] | None) -> None:
        """Take a job, and do it; beside others where there is a set for it. Raises NotJoinedAnyMore, Refused."""
        with contextlib.ExitStack() as received:
            try:
                taken = await self._server.take(lane, received.enter_context(inbox(self._jobs.shared)).place)
            except ServerAway:
                await asyncio.sleep(_RETRY_INTERVAL)
                return
            if taken is None:
                return
            arrays = received.pop_all()
        job, parcel = taken
        self._in_hand[job] = followed = Followed()

        async def work() -> None:
            try:
                with arrays:
                    answer = await self._jobs.do(parcel, followed)
                await self._answer(job, answer)
            finally:
                self._in_hand.pop(job, None)

        if beside is None:
            await work()
        else:
            task = asyncio.create_task(work())
            beside.add(task)
            task.add_done_callback(beside.discard)

    async def _answer(self, job: str, answer: Parcel) -> None:
        """Answer, where the server still waits for it; the beats find out where it knows this worker no more."""
        for attempt in range(_ANSWER_TRIES):
            try:
                await self._server.answer(job, answer)
                return
            except ServerAway as error:
                logger.warning("An answer did not reach the server (%s)", error)
                await asyncio.sleep(_RETRY_INTERVAL * attempt)
            except (NotJoinedAnyMore, Refused):
                return
