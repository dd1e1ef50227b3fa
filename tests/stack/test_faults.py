"""SIGKILL of a model process, of each model runner instance and of Triton, one after the other, under eight clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypha_rpc import connect_to_server

from tests.stack.harness import RUNNER, Stack, example_input, get, wait_for

CLIENTS = 8
RUNNERS = 3
MODELS = ("old-otter", "conscientious-seashell")


class Load:
    """Clients that go on calling and compare every answer."""

    def __init__(self, stack: Stack, packages: Path) -> None:
        self._stack = stack
        self._cases = {id: (example_input(packages, id), np.load(packages / id / "test_output.npy")) for id in MODELS}
        self.right = 0
        self.failures: list[str] = []
        self.wrong: list[str] = []
        self.last_failure = 0.0
        self._stop = False

    async def client(self, number: int) -> None:
        server = await connect_to_server({"server_url": self._stack.url, "method_timeout": 120})
        triton = await server.get_service("triton-client")
        id = MODELS[number % len(MODELS)]
        inputs, expected = self._cases[id]
        while not self._stop:
            answer: dict[str, Any] = await triton.execute(
                inputs=[{"model_id": id, "inputs": inputs}], model_name=RUNNER, serialization="imjoy"
            )
            result = answer["result"]
            if not result["success"]:
                self.failures.append(result["error"])
                self.last_failure = time.monotonic()
            elif np.allclose(result["outputs"][0], expected, atol=1e-3):
                self.right += 1
            else:
                self.wrong.append(id)
            await asyncio.sleep(0.02)
        await server.disconnect()

    async def recover(self, what: str, healed: Callable[[], bool] = lambda: True) -> None:
        """Wait until clients get right answers again, what was killed is back and readiness says so; within 10 s."""
        started = time.monotonic()
        while True:
            right = self.right
            await asyncio.sleep(0.5)
            calm = time.monotonic() - self.last_failure > 0.5 and self.right > right + CLIENTS // 2
            ready = calm and healed() and (await asyncio.to_thread(get, f"{self._stack.url}/health/readiness"))[0] == 200
            if ready:
                break
            assert time.monotonic() - started < 10, f"{what}: not well within 10 s; last errors: {self.failures[-3:]}"
        print(f"{what}: well again after {time.monotonic() - started:.1f} s, {len(self.failures)} failures so far")

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self.client(number)) for number in range(CLIENTS)]
        async with asyncio.timeout(60):  # the models have to be loaded first
            while self.right <= CLIENTS:
                await asyncio.sleep(0.2)
        assert not self.failures, self.failures
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 60)


@pytest.mark.extended
async def test_kills_under_load(own_home: Path, packages: Path) -> None:
    stack = await asyncio.to_thread(Stack(own_home).start)
    try:
        async with Load(stack, packages) as load:
            for id in MODELS:
                stack.stubs(id)[0].kill()
                await load.recover(f"process of {id} killed")
            assert len(stack.runners()) == RUNNERS
            for owner in sorted(stack.runners()):
                killed = stack.runners()[owner]
                killed.kill()
                await load.recover(f"{owner} killed", lambda: stack.runners().get(owner, killed).pid != killed.pid)  # noqa: B023
            before = {process.pid for process in stack.stubs(RUNNER)}
            for killed in list(stack.runners().values())[:2]:
                killed.kill()
            await load.recover("two instances killed", lambda: not before & {each.pid for each in stack.runners().values()})
            seconds = await asyncio.to_thread(wait_for, lambda: len(stack.stubs(RUNNER)) == RUNNERS, 20, "the replaced ones' end")
            print(f"no process of a replaced instance is left after {seconds:.1f} s more")
            stack.triton().kill()
            await load.recover("Triton killed")
        print(f"{load.right} right answers, {len(load.failures)} failures, {len(load.wrong)} wrong answers")
        assert load.wrong == []
        for failure in load.failures:
            assert "again" in failure and "Traceback" not in failure, failure
    finally:
        await asyncio.to_thread(stack.stop)
    assert stack.leftovers() == []
