"""Models on several cards; there are none here: a fake worker reports them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bioengine_contract.operations import Card, ModelProcess, Report
from bioengine_contract.triton_model import TritonModel
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.placement import Placement
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import Opened

from tests.unit.server.test_dispatcher import FakeWorker, local, run, store

GB = 10**9


class CardsWorker(FakeWorker):
    """A fake with cards, whose models hold 1 GB of the one that they are on."""

    def __init__(self, *free: int) -> None:
        super().__init__()
        self.free = list(free)

    async def load(self, model: TritonModel) -> Opened:
        opened = await super().load(model)
        assert model.card is not None
        self.free[model.card] -= GB
        return Opened(opened.weight_format, f"cuda:{model.card}", memory=Memory(0, GB))

    async def report(self) -> Report:
        cards = [Card(index=index, name="fake", memory=10 * GB, free=free) for index, free in enumerate(self.free)]
        return Report(boot="1", dead_instances=[], models={}, cards=cards)


@pytest.fixture
def dispatcher(tmp_path: Path) -> Dispatcher:
    return made(tmp_path, CardsWorker(3 * GB, 8 * GB))


def made(home: Path, worker: CardsWorker, **settings: Any) -> Dispatcher:
    store(home, "shark", "otter", "whale")
    chosen = Settings(home=home, offline=True, **settings)
    return Dispatcher(chosen, worker, StoreService(chosen), "")


async def learn(dispatcher: Dispatcher) -> CardsWorker:
    worker = dispatcher.pool.members[0].worker
    assert isinstance(worker, CardsWorker)
    local(dispatcher).learn(await worker.report())
    return worker


async def test_cards_of_which_the_driver_says_nothing_once_are_still_there(dispatcher: Dispatcher) -> None:
    worker = await learn(dispatcher)
    assert (await run(dispatcher, "shark"))["device"] == "cuda:1"
    limit = local(dispatcher).limit
    local(dispatcher).learn((await worker.report()).model_copy(update={"cards": []}))
    assert (await run(dispatcher, "shark"))["device"] == "cuda:1" and len(worker.loads) == 1
    assert local(dispatcher).limit == limit and limit.cards == 18 * GB


async def test_a_model_comes_to_the_card_with_most_room_and_the_result_says_which(dispatcher: Dispatcher) -> None:
    worker = await learn(dispatcher)
    assert (await run(dispatcher))["device"] == "cuda:1" and worker.loads == ["shark--gpu1"]
    worker.free = [9 * GB, GB]
    await learn(dispatcher)
    assert (await run(dispatcher, "otter"))["device"] == "cuda:0"
    assert (await run(dispatcher))["device"] == "cuda:1", "it stays where it is"
    assert len(worker.loads) == 2


async def test_two_at_once_do_not_take_the_same_room(tmp_path: Path) -> None:
    dispatcher = made(tmp_path, CardsWorker(2 * GB, int(2.5 * GB)))
    await learn(dispatcher)
    results = await asyncio.gather(run(dispatcher), run(dispatcher, "otter"))
    assert {result["device"] for result in results} == {"cuda:0", "cuda:1"}


async def test_a_busy_model_is_loaded_on_another_card_too(dispatcher: Dispatcher) -> None:
    worker = await learn(dispatcher)
    await run(dispatcher)
    worker.gate = asyncio.Event()
    running = [asyncio.create_task(run(dispatcher)) for _ in range(3)]
    await asyncio.sleep(0.3)
    assert worker.loads == ["shark--gpu1", "shark--gpu0"]
    running.append(asyncio.create_task(run(dispatcher)))
    await asyncio.sleep(0.2)
    worker.gate.set()
    devices = [result["device"] for result in await asyncio.gather(*running)]
    assert devices == ["cuda:1"] * 3 + ["cuda:0"]


async def test_room_is_made_on_the_card_that_lacks_it(tmp_path: Path) -> None:
    dispatcher = made(tmp_path, CardsWorker(GB, GB))
    await learn(dispatcher)
    await run(dispatcher), await run(dispatcher, "otter")
    worker = await learn(dispatcher)
    assert worker.free == [0, 0]
    result = await run(dispatcher, "whale")
    assert result["success"] and worker.unloaded == [{"cuda:0": worker.loads[0], "cuda:1": worker.loads[1]}[result["device"]]]


async def test_what_an_earlier_server_has_left_on_a_card_makes_room_too(tmp_path: Path) -> None:
    dispatcher = made(tmp_path, CardsWorker(0, 0))
    left = ModelProcess(state="open", memory=GB, gpu_memory=2 * GB)
    worker = dispatcher.pool.members[0].worker
    report = (await worker.report()).model_copy(update={"models": {"otter--gpu0": left, "whale--gpu1": left}})
    local(dispatcher).learn(report)
    result = await run(dispatcher)
    assert result["success"]
    assert isinstance(worker, CardsWorker) and worker.unloaded == [
        {"cuda:0": "otter--gpu0", "cuda:1": "whale--gpu1"}[result["device"]]
    ]


async def test_only_the_cards_that_were_chosen_are_used(tmp_path: Path) -> None:
    dispatcher = made(tmp_path, CardsWorker(3 * GB, 8 * GB), devices="0")
    await learn(dispatcher)
    assert (await run(dispatcher))["device"] == "cuda:0"


async def test_the_first_request_waits_for_the_worker_to_say_which_cards_it_has(tmp_path: Path) -> None:
    worker = CardsWorker(9 * GB, 8 * GB)
    assert (await run(made(tmp_path, worker, devices="1")))["success"] and worker.loads == ["shark--gpu1"]


def test_one_card_is_no_choice() -> None:
    placement = Placement(frozenset())
    placement.learn([Card(index=0, name="fake", memory=GB, free=GB)])
    assert placement.cards == []


@pytest.mark.parametrize("text", ["gpu", "0;1", "-1", "0,"])
def test_what_is_no_number_of_a_card(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers of GPUs"):
        Settings(devices=text)
