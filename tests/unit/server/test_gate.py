"""The gate in front of a model, which lets requests run together or alone."""

from __future__ import annotations

import asyncio

import pytest
from bioengine_server.dispatch.gate import Gate


async def test_many_pass_beside_each_other_and_one_alone() -> None:
    gate, seen, go = Gate(), list[str](), asyncio.Event()

    async def beside(name: str) -> None:
        async with gate.beside_others():
            seen.append(f"{name} in {gate.inside}")
            await go.wait()

    async def alone() -> None:
        async with gate.alone():
            seen.append(f"alone {gate.inside}")
            await asyncio.sleep(0.01)
            seen.append(f"still alone {gate.inside}")

    tasks = [asyncio.create_task(work) for work in (beside("a"), beside("b"))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(alone())]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(beside("c"))]
    await asyncio.sleep(0.01)
    assert seen == ["a in 1", "b in 2"]
    go.set()
    await asyncio.gather(*tasks)
    assert seen[2:] == ["alone 1", "still alone 1", "c in 1"] and gate.inside == 0


async def test_whoever_is_cancelled_leaves_it_open() -> None:
    gate = Gate()
    async with gate.beside_others():
        waiting = asyncio.create_task(gate.alone().__aenter__())
        await asyncio.sleep(0.01)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1), gate.alone():
        assert gate.inside == 1
