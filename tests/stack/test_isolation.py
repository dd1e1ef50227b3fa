"""Slow, loading and hanging models do not delay requests for other models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypha_rpc import connect_to_server

from tests.stack.harness import RUNNER, Stack, example_input, get, snail

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def own_stack(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    from tests.stack.harness import fill_home

    home = tmp_path_factory.mktemp("isolation") / "home"
    fill_home(home, packages)
    with Stack(home) as stack:
        with stack.client() as client:
            assert client.run("slow-snail", [snail(0)])["success"]
            assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
        yield stack


@pytest.fixture
async def triton(own_stack: Stack) -> AsyncIterator[Any]:
    server = await connect_to_server({"server_url": own_stack.url, "method_timeout": 120})
    yield await server.get_service("triton-client")
    await server.disconnect()


async def run(triton: Any, model_id: str, inputs: list[np.ndarray]) -> tuple[dict[str, Any], float]:
    answer = await triton.execute(inputs=[{"model_id": model_id, "inputs": inputs}], model_name=RUNNER, serialization="imjoy")
    return answer["result"], time.monotonic()


async def test_a_slow_run_and_a_load_leave_a_third_alone(triton: Any, packages: Path) -> None:
    slow = asyncio.create_task(run(triton, "slow-snail", [snail(20)]))
    await asyncio.sleep(0.5)
    loading = asyncio.create_task(run(triton, "two-inputs", example_input(packages, "two-inputs")))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    small, small_ended = await run(triton, "old-otter", example_input(packages, "old-otter"))
    loaded, loading_ended = await loading
    slow_result, slow_ended = await slow
    for result in (small, loaded, slow_result):
        assert result["success"], result
    print(f"small {small_ended - started:.2f} s, load {loading_ended - started:.2f} s, slow {slow_ended - started:.2f} s")
    assert small_ended < loading_ended < slow_ended
    assert slow_result["execution_time"] >= 20, "the slow run was slow"


async def test_many_requests_to_a_stuck_model_leave_a_warm_one_answering(own_stack: Stack, triton: Any, packages: Path) -> None:
    stuck = [asyncio.create_task(run(triton, "slow-snail", [snail(3600)])) for _ in range(40)]
    try:
        await asyncio.sleep(3)
        times = []
        for _ in range(10):
            started = time.monotonic()
            result, ended = await run(triton, "old-otter", example_input(packages, "old-otter"))
            assert result["success"], result
            times.append(ended - started)
        print(f"warm model beside 40 requests to a stuck one: {max(times):.2f} s at most")
        assert max(times) < 5
        assert get(f"{own_stack.url}/health/readiness")[0] == 200, "readiness is not disturbed by busy models"
        assert not any(task.done() for task in stuck)
    finally:
        # Its process is killed: the four in flight are tried once more and then fail, and so on to the last.
        while not all(task.done() for task in stuck):
            for process in own_stack.stubs("slow-snail"):
                process.kill()
            await asyncio.sleep(1)
            for task in [task for task in stuck if not task.done()][20:]:
                task.cancel()
            if len([task for task in stuck if not task.done()]) <= 20:
                for task in stuck:
                    task.cancel()
                break
        await asyncio.gather(*stuck, return_exceptions=True)
