"""The door in front of Triton."""

from __future__ import annotations

import asyncio

import pytest
from bioengine_server.errors import Busy
from bioengine_server.service.admission import Admission


async def hold(admission: Admission, model: str, release: asyncio.Event, entered: list[str]) -> None:
    async with admission.admit(model):
        entered.append(model)
        await release.wait()


async def test_a_model_takes_its_own_places_only() -> None:
    admission = Admission(total=6, per_model=4, queue_size=100)
    release, entered = asyncio.Event(), list[str]()
    stuck = [asyncio.create_task(hold(admission, "stuck", release, entered)) for _ in range(40)]
    await asyncio.sleep(0.01)
    assert entered == ["stuck"] * 4
    others = [asyncio.create_task(hold(admission, f"other {number}", release, entered)) for number in range(3)]
    await asyncio.sleep(0.01)
    assert len(entered) == 6, "no more than the total"
    release.set()
    await asyncio.gather(*stuck, *others)
    assert len(entered) == 43 and admission.waiting == 0


async def test_a_full_queue_refuses_at_once() -> None:
    admission = Admission(total=1, per_model=1, queue_size=4)
    release, entered = asyncio.Event(), list[str]()
    tasks = [asyncio.create_task(hold(admission, "a", release, entered)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(Busy, match="busy"):
        async with admission.admit("a"):
            pass
    tasks += [asyncio.create_task(hold(admission, "b", release, entered)) for _ in range(2)]
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(*tasks)


async def test_who_gives_up_frees_the_place() -> None:
    admission = Admission(total=1, per_model=1, queue_size=10)
    release, entered = asyncio.Event(), list[str]()
    first = asyncio.create_task(hold(admission, "a", release, entered))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(hold(admission, "a", release, entered))
    await asyncio.sleep(0.01)
    assert admission.waiting == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.waiting == 0
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with admission.admit("a"):
        pass
