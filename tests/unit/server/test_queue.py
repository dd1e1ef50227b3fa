"""Which request's turn it is."""

from __future__ import annotations

import asyncio

import pytest
from bioengine_server.access.errors import Busy
from bioengine_server.dispatch.queue import LARGE, Queue


async def hold(queue: Queue, model: str, release: asyncio.Event, entered: list[str]) -> None:
    async with queue.place(model):
        entered.append(model)
        await release.wait()


async def test_a_model_takes_its_own_places_only() -> None:
    queue = Queue(total=6, per_model=4, size=100)
    release, entered = asyncio.Event(), list[str]()
    stuck = [asyncio.create_task(hold(queue, "stuck", release, entered)) for _ in range(40)]
    await asyncio.sleep(0.01)
    assert entered == ["stuck"] * 4
    others = [asyncio.create_task(hold(queue, f"other {number}", release, entered)) for number in range(3)]
    await asyncio.sleep(0.01)
    assert len(entered) == 6, "no more than the total"
    release.set()
    await asyncio.gather(*stuck, *others)
    assert len(entered) == 43 and queue.waiting == 0


async def test_a_full_queue_refuses_at_once() -> None:
    queue = Queue(total=1, per_model=1, size=4)
    release, entered = asyncio.Event(), list[str]()
    tasks = [asyncio.create_task(hold(queue, "a", release, entered)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(Busy, match="busy"):
        async with queue.place("a"):
            pass
    tasks += [asyncio.create_task(hold(queue, "b", release, entered)) for _ in range(2)]
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(*tasks)


async def test_who_gives_up_frees_the_place() -> None:
    queue = Queue(total=1, per_model=1, size=10)
    release, entered = asyncio.Event(), list[str]()
    first = asyncio.create_task(hold(queue, "a", release, entered))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(hold(queue, "a", release, entered))
    await asyncio.sleep(0.01)
    assert queue.waiting == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert queue.waiting == 0
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with queue.place("a"):
        pass


async def test_positions_are_told_as_they_change() -> None:
    queue = Queue(total=4, per_model=1, size=10)
    releases = [asyncio.Event() for _ in range(3)]
    told: list[list[int]] = [[], [], []]
    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(queue.run("a", releases[number].wait, told[number].append)))
        await asyncio.sleep(0.01)
    assert [positions[-1] for positions in told] == [0, 1, 2]
    releases[0].set()
    await asyncio.sleep(0.01)
    assert told[2][-1] == 1, "the second runs, so the third is next"
    for release in releases:
        release.set()
    await asyncio.gather(*tasks)


async def test_a_caller_who_leaves_the_queue_is_not_run() -> None:
    queue = Queue(total=1, per_model=1, size=10)
    release, ran = asyncio.Event(), list[str]()

    async def work() -> None:
        ran.append("second")

    first = asyncio.create_task(queue.run("a", release.wait))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(queue.run("a", work))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert queue.waiting == 0
    release.set()
    await first
    await asyncio.sleep(0.01)
    assert ran == []


async def test_begun_work_keeps_its_place_when_its_caller_leaves() -> None:
    queue = Queue(total=1, per_model=1, size=10)
    release, entered = asyncio.Event(), list[str]()

    async def work() -> None:
        await release.wait()
        entered.append("first")

    first = asyncio.create_task(queue.run("a", work))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(hold(queue, "a", release, entered))
    await asyncio.sleep(0.01)
    assert entered == [] and queue.waiting == 1, "Triton still works on the first"
    release.set()
    await second
    assert entered == ["first", "a"]


async def test_who_comes_new_does_not_come_before_those_who_wait() -> None:
    queue = Queue(total=1, per_model=1, size=100)
    order: list[str] = []

    async def ask(caller: str) -> None:
        async with queue.place("a", caller=caller):
            order.append(caller)
            await asyncio.sleep(0.01)

    await ask("old")
    tasks = [asyncio.create_task(ask(caller)) for caller in ("first", "old")]
    await asyncio.sleep(0)
    for number in range(5):
        tasks.append(asyncio.create_task(ask(f"new {number}")))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    assert order.index("old", 1) <= 2


async def test_large_requests_leave_a_place_to_small_ones() -> None:
    queue = Queue(total=4, per_model=3, size=100)
    release, entered = asyncio.Event(), list[str]()

    async def run(name: str, size: int) -> None:
        async with queue.place("model", size=size):
            entered.append(name)
            await release.wait()

    large = [asyncio.create_task(run("large", LARGE + 1)) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert entered == ["large"] * 2
    small = asyncio.create_task(run("small", LARGE))
    await asyncio.sleep(0.01)
    assert entered == ["large", "large", "small"]
    release.set()
    await asyncio.gather(*large, small)
    assert len(entered) == 6 and queue.running == queue.waiting == 0


async def test_large_requests_run_where_there_is_but_one_place() -> None:
    queue = Queue(total=1, per_model=1, size=100)
    async with asyncio.timeout(1), queue.place("model", size=LARGE + 1):
        assert queue.running == 1


async def test_the_many_of_one_caller_keep_another_waiting_for_two_runs_at_most() -> None:
    queue, order = Queue(total=1, per_model=1, size=1000), list[str]()

    async def run(caller: str) -> None:
        async with queue.place("model", caller=caller):
            order.append(caller)
            await asyncio.sleep(0.001)

    many = [asyncio.create_task(run("many")) for _ in range(200)]
    await asyncio.sleep(0.02)
    before = len(order)
    await asyncio.gather(run("other"), *many)
    assert order.index("other") - before <= 2
