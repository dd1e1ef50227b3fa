"""Which worker runs a request, where there are several; on fake workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from bioengine_server.dispatch import pool as pool_module
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.member import Member
from bioengine_server.dispatch.model_state import ModelState
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.workers.errors import WorkerLost
from bioengine_server.workers.memory import Memory

from tests.unit.server.test_dispatcher import FakeWorker, run, store

IDS = [f"model-{number}" for number in range(12)]
GB = 10**9


class Pooled:
    """A dispatcher with fake workers of these names."""

    def __init__(self, home: Path, *names: str, memory_limit: int = 0) -> None:
        store(home, *IDS)
        self.settings = Settings(home=home, offline=True, triton="workers", worker_wait=0.2, memory_limit=memory_limit)
        self.dispatcher = Dispatcher(self.settings, None, StoreService(self.settings), "")
        self.pool = self.dispatcher.pool
        self.workers: dict[str, FakeWorker] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> FakeWorker:
        worker = self.workers[name] = FakeWorker()
        models = self.pool._models(worker, Memory(self.settings.memory_limit), frozenset())
        self.pool._members.append(Member(name, worker, models, 2))
        self.pool._tell_change()
        return worker

    def remove(self, name: str) -> None:
        self.pool._members = [member for member in self.pool._members if member.name != name]
        self.pool._tell_change()

    def loaded_on(self, id: str) -> list[str]:
        return sorted(name for name, worker in self.workers.items() if id in worker.loads)

    async def run_at_once(self, id: str, number: int) -> list[asyncio.Task[dict[str, object]]]:
        """So many requests that do not end before the gates are opened."""
        tasks = [asyncio.create_task(run(self.dispatcher, id)) for _ in range(number)]
        await asyncio.sleep(0.2)
        return tasks

    def close_gates(self) -> None:
        for worker in self.workers.values():
            worker.gate = asyncio.Event()

    def open_gates(self) -> None:
        for worker in self.workers.values():
            assert worker.gate is not None
            worker.gate.set()


async def test_each_model_stays_on_its_worker_and_they_are_shared_out(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path, "one", "two", "three")
    for _ in range(3):
        for id in IDS:
            assert (await run(pooled.dispatcher, id))["success"]
    assert all(len(pooled.loaded_on(id)) == 1 for id in IDS)
    assert all(len(worker.loads) >= 2 for worker in pooled.workers.values())


async def test_a_worker_that_goes_moves_no_other_workers_models(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path, "one", "two", "three")
    for id in IDS:
        await run(pooled.dispatcher, id)
    before = {id: pooled.loaded_on(id) for id in IDS}
    pooled.remove("two")
    for id in IDS:
        assert (await run(pooled.dispatcher, id))["success"]
    assert all(before[id] == ["two"] or pooled.loaded_on(id) == before[id] for id in IDS)


async def test_a_worker_that_comes_has_loaded_a_model_before_it_gets_its_requests(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path, "one")
    for id in IDS:
        await run(pooled.dispatcher, id)
    new = pooled.add("two")
    for id in IDS:
        assert (await run(pooled.dispatcher, id))["success"]
    assert new.inferred == [], "nothing waited for it"
    await asyncio.sleep(0.1)
    for id in IDS:
        await run(pooled.dispatcher, id)
    assert set(new.inferred) == set(new.loads) and 2 <= len(new.loads) <= 10


async def test_a_busy_model_comes_to_a_second_worker_only_when_that_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = Pooled(tmp_path, "one", "two")
    await run(pooled.dispatcher, IDS[0])
    (first,) = pooled.loaded_on(IDS[0])
    second = pooled.workers["two" if first == "one" else "one"]
    member = next(member for member in pooled.pool.members if member.name == first)
    monkeypatch.setattr(type(member.models), "load_seconds", lambda *_: 0.5)
    pooled.close_gates()
    tasks = await pooled.run_at_once(IDS[0], 4)
    assert second.loads == [], "it has been busy for less than loading takes"
    await asyncio.sleep(0.5)
    tasks += await pooled.run_at_once(IDS[0], 1)
    assert second.loads == [IDS[0]] and second.inferred == [], "loaded, and nobody waited for it"
    tasks += await pooled.run_at_once(IDS[0], 2)
    assert second.inferred == [IDS[0]] * 2, "now it is used, for as many as it has places"
    pooled.open_gates()
    assert all([(await task)["success"] for task in tasks])


async def test_what_is_loaded_beforehand_pushes_nothing_out(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path, "one", memory_limit=GB)
    await run(pooled.dispatcher, IDS[0])
    new = pooled.add("two")
    member = pooled.pool.members[1]
    member.models._models.update({"other": _held(GB)})
    for id in IDS[:1] * 3:
        assert (await run(pooled.dispatcher, id))["success"]
    assert new.loads == []


def _held(size: int) -> ModelState:
    return ModelState("other", memory=Memory(size))


async def test_a_worker_whose_triton_is_away_is_passed_over_until_it_is_back(tmp_path: Path) -> None:
    class Away(FakeWorker):
        """A fake that stays away until it is told to come back."""

        def __init__(self) -> None:
            super().__init__()
            self.back = asyncio.Event()

        async def wait_until_ready(self) -> None:
            await self.back.wait()

    pooled = Pooled(tmp_path, "one", "two")
    await run(pooled.dispatcher, IDS[0])
    (first,) = pooled.loaded_on(IDS[0])
    member = next(member for member in pooled.pool.members if member.name == first)
    away = Away()
    away.failures = [TritonUnavailable("it was killed")]
    member.worker = away
    member.models._worker = away
    for _ in range(3):
        assert (await run(pooled.dispatcher, IDS[0]))["success"]
    assert not member.is_ready and away.inferred == [IDS[0]]
    away.back.set()
    await asyncio.sleep(0.1)
    assert member.is_ready


async def test_a_request_that_two_workers_are_lost_with_is_not_tried_on_a_third(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path, "one", "two", "three")
    for worker in pooled.workers.values():
        worker.failures = [WorkerLost("a worker")]
    result = await run(pooled.dispatcher, IDS[0])
    assert result["code"] == "workers_lost" and "not tried on a third" in str(result["error"])
    assert sum(len(worker.inferred) for worker in pooled.workers.values()) == 2
    for worker in pooled.workers.values():
        worker.failures = [WorkerLost("a worker", had_begun=False)]
    assert (await run(pooled.dispatcher, IDS[0]))["success"], "what had not begun is not to blame"


async def test_the_queue_grows_with_the_workers(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path)
    assert pooled.dispatcher.queue.per_model == 4
    for number in (1, 2, 3):
        pooled.add(f"worker-{number}")
        assert pooled.dispatcher.queue.per_model == 4 * number
    assert pool_module.LOCAL == ""


async def test_memory_and_counts_are_those_of_all_workers(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path, "one", "two", memory_limit=8 * GB)
    for worker in pooled.workers.values():
        worker.memory = GB
    for id in IDS[:6]:
        await run(pooled.dispatcher, id)
    assert pooled.pool.held == Memory(6 * GB) and pooled.pool.limit == Memory(16 * GB)
    assert pooled.pool.counts["loads"] == 6
    assert {model["worker"] for model in pooled.pool.status()} == {"one", "two"}
    assert await pooled.pool.unload(IDS[0]) and not await pooled.pool.unload(IDS[0])


async def test_a_model_that_is_always_kept_waits_for_no_worker_and_counts_as_no_request(tmp_path: Path) -> None:
    pooled = Pooled(tmp_path)
    for _ in range(2):
        await pooled.dispatcher._preload(IDS[0])
        figures = pooled.dispatcher.workers()
        assert (figures["waiting"], figures["running"]) == (0, 0)
    worker = pooled.add("one")
    await pooled.dispatcher._preload(IDS[0])
    assert worker.loads == [IDS[0]]
