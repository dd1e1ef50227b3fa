"""Requests that are cancelled, by their callers, by those leaving, in the queue, between two tiles and within a long run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypha_rpc import connect_to_server

from tests.stack.harness import RUNNER, Stack, fill_home, snail, wait_for

ONE_HOUR = 3600
IN_TILES = np.full((1, 1, 40, 4), 0.5, np.float32)
"""Nineteen tiles of `slow-snail`, of half a second each."""


@pytest.fixture(scope="module")
def own_stack(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("cancelling") / "home"
    fill_home(home, packages)
    with Stack(home, BIOENGINE_MODEL_CONCURRENCY="2") as stack:
        yield stack


@pytest.fixture
async def triton(own_stack: Stack) -> AsyncIterator[Any]:
    server = await connect_to_server({"server_url": own_stack.url, "method_timeout": 120})
    yield await server.get_service("triton-client")
    await server.disconnect()


class Run:
    """A request that is under way, and what its progress function was told."""

    def __init__(self, triton: Any, image: np.ndarray) -> None:
        self.told: list[dict[str, Any]] = []
        request = {"model_id": "slow-snail", "inputs": [image]}
        running = triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy", progress=self._listen)
        self._task = asyncio.ensure_future(running)

    def _listen(self, event: dict[str, Any]) -> None:
        self.told.append(dict(event))

    @property
    def task_id(self) -> str:
        return str(self.told[0]["task_id"])

    async def told_of(self, state: str, **more: Any) -> dict[str, Any]:
        """The first event of a state, with what else it must have."""
        async with asyncio.timeout(60):
            while True:
                for event in self.told:
                    if event["state"] == state and more.items() <= event.items():
                        return event
                await asyncio.sleep(0.05)

    async def result(self) -> dict[str, Any]:
        return dict((await self._task)["result"])


def pids(stack: Stack) -> list[int]:
    return [process.pid for process in stack.stubs("slow-snail")]


async def test_an_image_in_tiles_ends_before_its_next_tile(own_stack: Stack, triton: Any) -> None:
    whole = Run(triton, snail(0))
    assert (await whole.result())["success"]
    before = pids(own_stack)
    run = Run(triton, IN_TILES)
    event = await run.told_of("running", tile=3)
    assert event["tiles"] == 19 and run.told[0]["task_id"] == event["task_id"]
    started = time.monotonic()
    assert await triton.cancel(run.task_id) == {"cancelled": run.task_id}
    result = await run.result()
    assert (result["success"], result["code"], result["task_id"]) == (False, "cancelled", run.task_id)
    next_one = Run(triton, snail(0))
    assert (await next_one.result())["success"]
    print(f"the model is free {time.monotonic() - started:.1f} s after the cancel")
    assert pids(own_stack) == before, "its process goes on"


@pytest.mark.extended
async def test_a_long_run_is_ended_and_the_one_behind_it_goes_on(own_stack: Stack, triton: Any) -> None:
    stuck = Run(triton, snail(ONE_HOUR))
    await stuck.told_of("running")
    beside = Run(triton, snail(0.1))
    waiting = Run(triton, snail(0.2))
    await waiting.told_of("queued", position=1)
    started = time.monotonic()
    await triton.cancel(task_id=stuck.task_id)
    assert (await stuck.result())["code"] == "cancelled"
    for run in (beside, waiting):
        assert (await run.result())["success"]
    print(f"those behind it have their results {time.monotonic() - started:.1f} s after the cancel")


@pytest.mark.extended
async def test_what_waits_is_not_run(own_stack: Stack, triton: Any) -> None:
    running = [Run(triton, snail(4)), Run(triton, snail(4))]
    for run in running:
        await run.told_of("running")
    waiting = Run(triton, snail(ONE_HOUR))
    event = await waiting.told_of("queued", position=1)
    assert event["estimate"] >= 0
    await triton.cancel(waiting.task_id)
    assert (await waiting.result())["code"] == "cancelled"
    assert [(await run.result())["success"] for run in running] == [True, True]


async def test_over_http_and_by_nobody_else(own_stack: Stack, triton: Any) -> None:
    run = Run(triton, snail(6))
    await run.told_of("running")
    url = f"{own_stack.url}/public/services/triton-client/cancel"
    answer = requests.post(url, json={"task_id": run.task_id})
    assert answer.status_code == 404 and answer.json()["code"] == "no_such_request", "it is of another caller"
    assert requests.post(url, json={"task_id": "no such"}).status_code == 404
    assert requests.post(url, json={}).status_code == 400
    assert (await run.result())["success"]


async def test_a_client_that_leaves_ends_its_run(own_stack: Stack, triton: Any) -> None:
    server = await connect_to_server({"server_url": own_stack.url, "method_timeout": 120})
    run = Run(await server.get_service("triton-client"), snail(ONE_HOUR))
    await run.told_of("running")
    await server.disconnect()
    run._task.cancel()
    result = await Run(triton, snail(0)).result()
    assert result["success"]
    seconds = await asyncio.to_thread(
        wait_for, lambda: run.task_id in own_stack.log and "is ended" in own_stack.log, 10, "its end"
    )
    print(f"noticed within {seconds:.1f} s")
