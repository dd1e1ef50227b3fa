"""The workers, and which of them runs a request.

Each model has an order of the workers that follows from their names alone (rendezvous hashing): its requests go to the first one,
whose process is warm, and a worker that comes or goes changes the order of no other two. A worker whose places are all taken is
passed over for the next one that has the model loaded. Another one begins to load it once requests have met full workers for as
long as loading takes: then it pays. A worker is preferred only once it has loaded the model.

What a worker had when it went away is run on another one, since inference changes nothing; but not on a third.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from bioengine_contract.triton_model import TritonModel

from bioengine_server.dispatch.budget import Budget
from bioengine_server.dispatch.errors import NoWorker, TwoWorkersLost
from bioengine_server.dispatch.loaded import EVENTS, LoadedModels, Work
from bioengine_server.dispatch.member import Member
from bioengine_server.dispatch.placement import Placement
from bioengine_server.dispatch.room import Kept
from bioengine_server.settings import Settings
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.workers.errors import NoSuchWorker, WorkerLost
from bioengine_server.workers.link import Link
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.remote_worker import RemoteWorker
from bioengine_server.workers.worker import Worker

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOCAL = ""
"""The name of the server's own worker."""

WAITING_FOR_WORKER = "waiting for a worker"

_LOAD_SECONDS = 5.0  # guessed for a model of which it is not known how long loading takes
_LOOK_INTERVAL = 0.5  # seconds between two looks whether a request that waits for a worker is still wanted


class Pool:
    """All workers of one server."""

    def __init__(self, settings: Settings, local: Worker | None, own: frozenset[str]) -> None:
        """
        Args:
            settings: of the server.
            local: the worker that belongs to it; None: models run only on workers that join.
            own: names of Triton models that are the server's own.
        """
        self._settings = settings
        self._members: list[Member] = []
        self._full_since: dict[str, float] = {}
        self._beforehand: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.kept = Kept(own)
        self.counts: Counter[str] = Counter(dict.fromkeys(EVENTS, 0))
        """What has happened on all workers so far (`loaded.EVENTS`)."""
        self.waiting = 0
        """Requests that wait for a worker."""
        self.on_size: Callable[[int], None] = lambda workers: None
        """Told how many workers there are."""
        self.local: LoadedModels | None = None
        """The models of the server's own worker."""
        if local is not None:
            limits = Memory(settings.memory_limit, settings.gpu_memory_limit)
            self.local = self._models(local, limits, settings.cards)
            self._members.append(Member(LOCAL, local, self.local, settings.places))

    def join(self, link: Link) -> None:
        """A worker has joined."""
        worker, join = RemoteWorker(link), link.join
        models = self._models(worker, Memory(join.memory_limit, join.gpu_memory_limit), frozenset(join.devices))
        member = Member(link.name, worker, models, link.places, link)
        link.on_beat = member.on_beat
        member.on_change = self._tell_change
        self._members.append(member)
        self._tell_change()

    def leave(self, link: Link) -> None:
        """A worker has gone."""
        self._members = [member for member in self._members if member.link is not link]
        self._tell_change()

    def drain(self, name: str) -> None:
        """Have a worker finish what it has in hand, leave, and end. Raises NoSuchWorker."""
        link = next((member.link for member in self._members if member.link is not None and member.name == name), None)
        if link is None:
            raise NoSuchWorker(name)
        logger.info("The worker %s is drained", name)
        link.drained = True
        self._tell_change()

    @property
    def members(self) -> Sequence[Member]:
        """The workers."""
        return self._members

    @property
    def ready(self) -> int:
        """How many workers requests can go to."""
        return len([member for member in self._members if member.is_ready])

    async def run(
        self, model: TritonModel, work: Work[T], check: Callable[[], None], tell: Callable[[str], None] = lambda state: None
    ) -> T:
        """`await work(loaded)` with the model loaded on a worker; on another one where that goes away.

        Args:
            model: the model.
            work: with the model.
            check: raises where the result is not wanted any more.
            tell: is told WAITING_FOR_WORKER while there is none, and "loading" while the model is loaded, or its worker recovers.

        Raises what `LoadedModels.run` raises; NoWorker, TwoWorkersLost.
        """
        lost: list[Member] = []
        times_begun = absences = 0
        while True:
            member = await self._member(model, lost, check, tell)
            try:
                with member.carrying():
                    return await member.models.run(model, work, check, tell)
            except WorkerLost as error:
                logger.info("%s: the worker %s is gone", model.name, member.name)
                lost.append(member)
                times_begun += error.had_begun
                if times_begun == 2:
                    raise TwoWorkersLost(model.manifest.id) from None
            except TritonUnavailable:
                absences += 1
                member.begin_recovery()
                if absences == 2 and not self._others(member):
                    raise
                if absences > 1 + len(self._members):
                    raise

    def is_loaded(self, model: TritonModel) -> bool:
        """Whether a request finds it loaded somewhere, as far as is known."""
        return any(member.models.is_loaded(model) for member in self._members)

    def status(self) -> list[dict[str, Any]]:
        """Of each loaded model what `LoadedModels.status` says, and `worker`: its name, empty for the server's own."""
        return [{**model, "worker": member.name} for member in self._members for model in member.models.status()]

    def describe(self) -> list[dict[str, Any]]:
        """Of each worker `Member.describe`."""
        return [member.describe() for member in self._members]

    @property
    def held(self) -> Memory:
        """What all models hold, on all workers."""
        return sum((member.models.held for member in self._members), Memory())

    @property
    def limit(self) -> Memory:
        """What they may hold."""
        return sum((member.models.limit for member in self._members), Memory())

    async def unload(self, name: str) -> bool:
        """Unload a model that no request wants, wherever it is. False where one does, or it is not loaded."""
        unloaded = [await member.models.unload(name) for member in self._members]
        return any(unloaded)

    async def tidy(self) -> None:
        """`LoadedModels.tidy`, of each worker."""
        await asyncio.gather(*(member.models.tidy() for member in self._members))

    def _models(self, worker: Worker, limits: Memory, cards: frozenset[int]) -> LoadedModels:
        budget = Budget(limits.host, limits.cards)
        settings = self._settings
        return LoadedModels(worker, settings.run_timeout, budget, Placement(cards), settings.keep_loaded, self.kept, self.counts)

    def _tell_change(self) -> None:
        self._changed.set()
        self.on_size(max(1, self.ready))

    def _others(self, member: Member) -> bool:
        return any(other.is_ready for other in self._members if other is not member)

    async def _member(
        self, model: TritonModel, lost: Sequence[Member], check: Callable[[], None], tell: Callable[[str], None]
    ) -> Member:
        """The worker that runs a request. Raises NoWorker, TritonUnavailable, and what `check` raises."""
        deadline = time.monotonic() + (0.0 if model.name in self.kept.own else self._settings.worker_wait)
        while True:
            ready = [member for member in self._members if member.is_ready]
            if ready:
                return self._chosen(model, [member for member in ready if member not in lost] or ready)
            if recovery := next((member.recovery for member in self._members if member.recovery is not None), None):
                tell("loading")
                await asyncio.shield(recovery)
                continue
            if time.monotonic() >= deadline:
                raise NoWorker(self._settings.worker_wait)
            tell(WAITING_FOR_WORKER)
            self.waiting += 1
            try:
                await self._change(deadline, check)
            finally:
                self.waiting -= 1

    async def _change(self, deadline: float, check: Callable[[], None]) -> None:
        """Wait until workers have come or gone, or the deadline. Raises what `check` raises."""
        self._changed.clear()
        while not self._changed.is_set() and time.monotonic() < deadline:
            check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_INTERVAL):
                    await self._changed.wait()

    def _chosen(self, model: TritonModel, ready: Sequence[Member]) -> Member:
        """The worker, of those that are ready, that runs a request for a model now."""
        if len(ready) == 1:
            return ready[0]
        ranked = sorted(ready, key=lambda member: _rank(member.name, model.name))
        have = [member for member in ranked if member.models.is_loaded(model)]
        if not have:
            loading = (member for member in ranked if member.models.is_loading(model))
            with_room = (member for member in ranked if member.models.has_room_for(model))
            return next(loading, None) or next(with_room, None) or ranked[0]
        self._load_beforehand(ranked[0], model)
        if free := [member for member in have if member.carried < member.places]:
            self._full_since.pop(model.name, None)
            return free[0]
        full_for = time.monotonic() - self._full_since.setdefault(model.name, time.monotonic())
        load_seconds = max((member.models.load_seconds(model) or 0.0 for member in have), default=0.0) or _LOAD_SECONDS
        if full_for >= load_seconds and (others := [member for member in ranked if member not in have]):
            self._load_beforehand(others[0], model)
        return min(have, key=lambda member: member.carried / member.places)

    def _load_beforehand(self, member: Member, model: TritonModel) -> None:
        """Have a model loaded that is loaded elsewhere, unless another one would have to go for it."""
        models = member.models
        if models.is_loaded(model) or models.is_loading(model) or not models.has_room_for(model):
            return
        task = asyncio.create_task(models.prepare(model))
        self._beforehand.add(task)
        task.add_done_callback(self._beforehand.discard)


def _rank(worker: str, model: str) -> bytes:
    return blake2b(f"{worker}\0{model}".encode(), digest_size=8).digest()
