"""Lanes have limits, in total and for each caller, and nobody has to wait for all requests of another caller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.access.errors import Busy
from bioengine_server.access.lanes import Lane, LaneLimits, OwnRequestsWait, SharedWork
from bioengine_server.dispatch.probe import PROBE_MODEL, ProbeLane, probe_image
from bioengine_server.settings import Settings
from bioengine_server.store.errors import NotInCollection
from bioengine_server.store.service import StoreService

from tests.mirror import Mirror, drip

LIMITS = LaneLimits(places=4, queue=20, caller_places=2, caller_queue=8, anonymous_places=3, patience=30)


def anonymous(name: str) -> Caller:
    return Caller(name, "ws", "client")


def known(name: str) -> Caller:
    return Caller(name, "ws", "client", token=name)


class Work:
    """Work that lasts until it is released, and who has begun it."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.begun: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.release = asyncio.Event()

    async def _one(self, caller: Caller) -> None:
        async with self.lane.place(caller):
            self.begun.append(caller.user)
            await self.release.wait()

    async def ask(self, caller: Caller, times: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._one(caller)) for _ in range(times)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def end(self) -> None:
        self.release.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.lane.waiting == 0
        async with asyncio.timeout(1):
            for _ in range(10):
                async with self.lane.place(known("later")):
                    pass


async def test_one_caller_has_his_share_of_places_and_anonymous_ones_leave_one() -> None:
    work = Work(Lane(LIMITS))
    await work.ask(anonymous("greedy"), 8)
    assert work.begun == ["greedy"] * 2
    await work.ask(anonymous("other"), 3)
    assert work.begun == ["greedy"] * 2 + ["other"], "three of four places are the most for callers without a token"
    await work.ask(known("ada"))
    assert work.begun[-1] == "ada"
    await work.end()


async def test_callers_take_turns() -> None:
    lane, order = Lane(LaneLimits(1, 100, 1, 50, 1, 30)), list[str]()

    async def ask(caller: Caller) -> None:
        async with lane.place(caller):
            order.append(caller.user)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(ask(anonymous("greedy"))) for _ in range(40)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(ask(anonymous(f"other {number}"))) for number in range(3)]
    await asyncio.gather(*tasks)
    assert all(order.index(f"other {number}") < 6 for number in range(3)), order[:10]


async def test_queues_are_bounded_for_each_and_for_all() -> None:
    work = Work(Lane(LIMITS))
    await work.ask(anonymous("greedy"), 10)
    with pytest.raises(OwnRequestsWait, match="8 of your requests are waiting already"):
        await work.lane.enter(anonymous("greedy"))
    for number in range(20):
        await work.ask(anonymous(f"other {number}"))
    assert work.lane.waiting == 20
    with pytest.raises(Busy, match="20 requests are waiting already"):
        await work.lane.enter(known("late"))
    await work.end()


async def test_who_gives_up_or_waits_too_long_leaves_nothing_behind() -> None:
    work = Work(Lane(LaneLimits(1, 20, 1, 8, 1, patience=0.05)))
    await work.ask(known("holder"))
    with pytest.raises(Busy):
        await work.lane.enter(known("patient"))
    waiting = asyncio.create_task(work.lane.enter(known("impatient")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert work.lane.waiting == 0
    await work.end()


async def test_work_that_several_want_is_done_once_and_survives_its_first_caller() -> None:
    lane, release, done = Lane(LIMITS), asyncio.Event(), list[str]()
    shared = SharedWork(lane)

    def work(name: str) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            await release.wait()
            done.append(name)
            return name

        return run

    first = asyncio.create_task(shared.once("model", anonymous("first"), work("model")))
    others = [asyncio.create_task(shared.once("model", anonymous(f"other {n}"), work("model"))) for n in range(50)]
    await asyncio.sleep(0.01)
    assert lane.waiting == 0, "who finds it under way needs no place"
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*others) == ["model"] * 50 and done == ["model"]


async def test_who_waits_for_a_place_joins_the_same_work_when_it_begins() -> None:
    lane, free, release, done = Lane(LaneLimits(1, 20, 1, 8, 1, patience=0.5)), asyncio.Event(), asyncio.Event(), list[str]()
    shared = SharedWork(lane)

    def work(name: str, until: asyncio.Event) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            await until.wait()
            done.append(name)
            return name

        return run

    other = asyncio.create_task(shared.once("other", known("other"), work("other", free)))
    await asyncio.sleep(0)
    wanted = [asyncio.create_task(shared.once("model", known(f"ada {n}"), work("model", release))) for n in range(5)]
    gives_up = asyncio.create_task(shared.once("model", known("gives up"), work("model", release)))
    await asyncio.sleep(0.01)
    assert lane.waiting == 6
    gives_up.cancel()
    free.set()
    await asyncio.sleep(0.7)
    assert lane.waiting == 0, "longer than anybody waits for a place"
    release.set()
    assert await asyncio.gather(other, *wanted) == ["other"] + ["model"] * 5 and done == ["other", "model"]
    assert shared._waiting == {} and not shared.is_under_way("model")
    async with lane.place(known("later")):
        pass


async def test_a_thousand_downloads_of_one_client_are_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collection is not reached: what a download itself does is not tried here."""
    store, release, running = StoreService(Settings(home=tmp_path)), asyncio.Event(), list[str]()

    async def download(id: str, _: Any) -> None:
        running.append(id)
        await release.wait()

    monkeypatch.setattr(store, "_fetch", download)
    greedy = [asyncio.create_task(store.fetch(f"model-{number}", anonymous("greedy"))) for number in range(1000)]
    others = [asyncio.create_task(store.fetch("wanted", anonymous("honest"))) for _ in range(3)]
    others.append(asyncio.create_task(store.fetch("other", known("ada"))))
    await asyncio.sleep(0.05)
    assert len(running) == 4 and {"wanted", "other"} < set(running), running
    refused = [task for task in greedy if task.done()]
    assert len(refused) == 1000 - 2 - 16 and all(isinstance(task.exception(), Busy) for task in refused)
    release.set()
    await asyncio.gather(*others)
    await asyncio.gather(*greedy, return_exceptions=True)
    assert len(running) == 2 + 16 + 2


class Model:
    """Stands in for the probe's model: notes what it is run on, and how often at once."""

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay
        self.images: list[np.ndarray] = []
        self.at_once = self.most_at_once = 0

    async def run(self, image: np.ndarray) -> dict[str, Any]:
        self.images.append(image)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay)
        self.at_once -= 1
        return {"success": True}


ROOT = Caller(OWN_USER, "public", "readiness-probe")


@pytest.mark.parametrize(
    ("model_id", "inputs", "caller"),
    [
        (PROBE_MODEL, [probe_image()], anonymous("client")),
        (PROBE_MODEL, [probe_image()], known("ada")),
        (PROBE_MODEL, [np.zeros((1, 1, 4096, 1024), np.float32)], ROOT),
        (PROBE_MODEL, [probe_image() + 1], ROOT),
        (PROBE_MODEL, [probe_image(), probe_image()], ROOT),
        (PROBE_MODEL, None, ROOT),
        (f"{PROBE_MODEL}/1.0.0", [probe_image()], ROOT),
    ],
)
def test_nothing_but_the_servers_own_call_is_its_probe(model_id: str, inputs: Any, caller: Caller) -> None:
    lane = ProbeLane(Model().run)
    assert lane.is_asked(PROBE_MODEL, [probe_image()], ROOT)
    assert not lane.is_asked(model_id, inputs, caller)


async def test_who_pretends_to_be_the_server_gets_nothing_into_the_probes_lane_and_delays_nobody() -> None:
    model = Model(delay=0.05)
    lane = ProbeLane(model.run)
    flood = [asyncio.create_task(lane.run()) for _ in range(1000)]
    await asyncio.sleep(0.01)
    started = time.monotonic()
    await lane.run()
    assert time.monotonic() - started < 1
    await asyncio.gather(*flood)
    assert model.most_at_once == 1 and len(model.images) <= 3
    assert all(np.array_equal(image, probe_image()) for image in model.images)


async def test_names_that_the_collection_does_not_have_leave_nothing_in_the_store(packages: Path, tmp_path: Path) -> None:
    with Mirror(packages) as mirror:
        store = StoreService(mirror.settings(tmp_path))
        asked = [store.fetch(f"no-such-model-{number}", anonymous(f"client {number}")) for number in range(20)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, NotInCollection) for outcome in outcomes)
    assert not (tmp_path / "locks").exists() and list((tmp_path / "models").iterdir()) == []


async def test_a_description_that_does_not_come_holds_nobody_up(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioengine_server.store.service._DESCRIPTION_TIMEOUT", 6.0)
    with Mirror(packages) as mirror:
        mirror.faults["conscientious-seashell/files/rdf.yaml"] = drip
        store, slow = StoreService(mirror.settings(tmp_path)), anonymous("slow")
        await store.describe("label-doubler", slow)  # the first of all starts the process that reads descriptions
        waiting = [asyncio.create_task(store.describe("conscientious-seashell", slow)) for _ in range(20)]
        await asyncio.sleep(0.2)
        started = time.monotonic()
        assert (await store.describe("old-otter", anonymous("honest"))).id == "old-otter"
        assert time.monotonic() - started < 5
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all("timed out after 6 s" in str(outcome) for outcome in outcomes), outcomes[0]
