"""Models on a worker with little memory: which ones stay, and which make room; on a fake worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bioengine_contract.errors import RequestError
from bioengine_contract.model_errors import ModelNotLoaded
from bioengine_contract.operations import ModelProcess
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.probe import PROBE_MODEL
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.triton.errors import TritonUnavailable

from tests.unit.server.test_dispatcher import IMAGE, FakeWorker, Make, local, run, store

GB = 10**9
IDS = [f"model-{number}" for number in range(8)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    store(tmp_path, *IDS, PROBE_MODEL)

    def dispatcher(**settings: Any) -> tuple[Dispatcher, FakeWorker]:
        worker, chosen = FakeWorker(), Settings(home=tmp_path, offline=True, **settings)
        worker.memory = GB
        return Dispatcher(chosen, worker, StoreService(chosen), ""), worker

    return dispatcher


def loaded(dispatcher: Dispatcher) -> list[str]:
    return [model["name"] for model in dispatcher.status()["models"]]


async def test_the_one_used_longest_ago_makes_room(make: Make) -> None:
    dispatcher, worker = make(memory_limit=3 * GB)
    for id in IDS[:3]:
        assert (await run(dispatcher, id))["success"]
    await run(dispatcher, IDS[0])
    assert (await run(dispatcher, IDS[3]))["success"]
    assert worker.unloaded == [IDS[1]] and loaded(dispatcher) == [IDS[0], IDS[2], IDS[3]]


async def test_many_models_in_turn_under_a_limit_for_few(make: Make) -> None:
    dispatcher, worker = make(memory_limit=5 * GB)
    for _ in range(3):
        for id in IDS:
            assert (await run(dispatcher, id))["success"]
            assert len(loaded(dispatcher)) <= 5
    assert len(worker.loads) == 3 * len(IDS) and len(worker.unloaded) == 3 * len(IDS) - 5


async def test_a_model_at_work_is_not_unloaded_and_the_next_waits_for_it(make: Make) -> None:
    dispatcher, worker = make(memory_limit=GB)
    await run(dispatcher, IDS[0])
    worker.gate = asyncio.Event()
    busy = asyncio.create_task(run(dispatcher, IDS[0]))
    await asyncio.sleep(0.2)
    waiting = asyncio.create_task(run(dispatcher, IDS[1]))
    await asyncio.sleep(0.3)
    assert worker.unloaded == [] and not waiting.done()
    worker.gate.set()
    assert (await busy)["success"] and (await waiting)["success"] and worker.unloaded == [IDS[0]]


async def test_a_model_for_which_there_can_be_no_room_is_refused_before_it_is_loaded(make: Make) -> None:
    dispatcher, worker = make(memory_limit=100_000_000)
    result = await run(dispatcher, IDS[0])
    assert result["code"] == "model_too_large" and "BIOENGINE_MEMORY_LIMIT" in result["error"] and worker.loads == []
    assert "needs about 0.35 GB of memory" in result["error"] and "0.1 GB" in result["error"]


async def test_kept_models_stay_and_are_loaded_again(make: Make) -> None:
    dispatcher, worker = make(memory_limit=2 * GB, preload=f"{IDS[0]}, no-such-model", keep_loaded=0)
    upkeep = asyncio.create_task(dispatcher.upkeep.run(0.01))
    await asyncio.sleep(0.5)
    assert loaded(dispatcher) == [IDS[0]]
    for id in IDS[1:4]:
        assert (await run(dispatcher, id))["success"]
    await asyncio.sleep(0.5)
    assert loaded(dispatcher) == [IDS[0]] and IDS[0] not in worker.unloaded, "the others at once, by BIOENGINE_KEEP_LOADED"
    worker.processes = {IDS[0]: ModelProcess(state="ended")}
    local(dispatcher).learn(await worker.report())
    await asyncio.sleep(0.5)
    assert loaded(dispatcher) == [IDS[0]] and worker.loads.count(IDS[0]) == 2
    upkeep.cancel()


async def test_idle_models_stay_for_as_long_as_is_set(make: Make) -> None:
    for keep, stay in ((-1, True), (60, True), (0.02, False)):
        dispatcher, _ = make(keep_loaded=keep)
        await run(dispatcher, IDS[0])
        await asyncio.sleep(0.04)
        await local(dispatcher).tidy()
        assert bool(loaded(dispatcher)) is stay, keep


async def run_reported(dispatcher: Dispatcher, worker: FakeWorker, id: str, memory: int) -> None:
    await run(dispatcher, id)
    worker.processes[id] = ModelProcess(state="open", memory=memory)
    local(dispatcher).learn(await worker.report())


async def test_a_process_that_does_not_give_back_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from bioengine_server.dispatch import loaded as module

    dispatcher, worker = make()
    await run_reported(dispatcher, worker, IDS[0], 9 * GB)
    await local(dispatcher).tidy()
    assert worker.unloaded == [], "it may still give it back"
    monkeypatch.setattr(module, "_GIVES_BACK_WITHIN", 0.0)
    await local(dispatcher).tidy()
    assert worker.unloaded == [IDS[0]]


async def test_what_grows_beyond_the_limit_makes_others_go(make: Make) -> None:
    dispatcher, worker = make(memory_limit=4 * GB)
    for id in IDS[:3]:
        await run(dispatcher, id)
    await run_reported(dispatcher, worker, IDS[2], 3 * GB)
    await local(dispatcher).tidy()
    assert worker.unloaded == [IDS[0]]


async def test_where_loads_fail_the_probes_model_is_loaded_anew(make: Make) -> None:
    """A worker that cannot load runs what is loaded, the probe's model too: readiness would stay as it is."""
    dispatcher, worker = make()
    await dispatcher._run_probe(IMAGE)
    worker.load_failures = [RequestError("a broken file"), ModelNotLoaded("model-1", "its process could not begin")]
    await run(dispatcher, IDS[0])
    await local(dispatcher).tidy()
    assert worker.unloaded == [], "what is broken is the package"
    await run(dispatcher, IDS[1])
    await local(dispatcher).tidy()
    assert worker.unloaded == [PROBE_MODEL]
    await dispatcher._run_probe(IMAGE)
    worker.load_failures = [ModelNotLoaded("model-2", "its process could not begin")]
    await run(dispatcher, IDS[2])
    await local(dispatcher).tidy()
    assert worker.unloaded == [PROBE_MODEL], "not over and over"


async def test_a_model_that_cannot_be_loaded_is_tried_again_ever_later(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from bioengine_server.dispatch import loaded as module

    monkeypatch.setattr(module, "FAILURE_REMEMBERED", 0.5)
    dispatcher, worker = make()
    worker.load_failures = [ModelNotLoaded(IDS[0], "it is broken") for _ in range(2)]
    assert not (await run(dispatcher, IDS[0]))["success"]
    await asyncio.sleep(0.6)
    assert not (await run(dispatcher, IDS[0]))["success"]
    await asyncio.sleep(0.6)
    assert "it is broken" in (await run(dispatcher, IDS[0]))["error"] and len(worker.loads) == 2
    await asyncio.sleep(0.6)
    assert (await run(dispatcher, IDS[0]))["success"] and len(worker.loads) == 3


async def test_what_lives_on_without_our_knowing_makes_room_too(make: Make) -> None:
    """Triton was away for a moment, and the model's process is still there: it holds memory for no request."""
    dispatcher, worker = make(memory_limit=8 * GB)
    worker.failures = [TritonUnavailable("it was away for a moment")] * 5
    assert not (await run(dispatcher, IDS[0]))["success"] and loaded(dispatcher) == []
    worker.failures = []
    worker.processes = {IDS[0]: ModelProcess(state="open", memory=8 * GB)}
    local(dispatcher).learn(await worker.report())
    assert local(dispatcher).held.host == 8 * GB
    async with asyncio.timeout(5):
        assert (await run(dispatcher, IDS[1]))["success"]
    assert worker.unloaded == [IDS[0]] and local(dispatcher).held.host == GB
