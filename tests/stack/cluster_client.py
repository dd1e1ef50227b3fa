"""Callers of one library who go on calling and compare every answer; run in that library's own environment.

    python cluster_client.py imjoy|hypha URL CALLERS CASES.npz

Each line of stdin asks for what has happened since the last one, on stdout:

    {"right": number, "wrong": number, "failures": [text, ...], "gap": seconds, "answered": [caller, ...]}

`gap` is the longest time without a right answer, `answered` names the callers who had one. A caller who loses the server connects
again. They end with stdin.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import numpy as np


class Callers:
    def __init__(self, library: str, url: str, cases: Any) -> None:
        if library == "imjoy":
            from imjoy_rpc.hypha import connect_to_server
        else:
            from hypha_rpc import connect_to_server
        self._connect = connect_to_server
        self._config = {"server_url": url, "method_timeout": 120}
        self._cases = [(id, cases[f"{id}-input"], cases[f"{id}-output"]) for id in str(cases["ids"]).split()]
        self.begin()

    def begin(self) -> None:
        self._right = self._wrong = 0
        self._answered: set[int] = set()
        self._failures: list[str] = []
        self._last, self._gap = time.monotonic(), 0.0

    def told(self) -> str:
        self._step()
        said = {
            "right": self._right,
            "wrong": self._wrong,
            "failures": self._failures,
            "gap": self._gap,
            "answered": sorted(self._answered),
        }
        self.begin()
        return json.dumps(said)

    def _step(self) -> None:
        now = time.monotonic()
        self._gap, self._last = max(self._gap, now - self._last), now

    async def call(self, number: int) -> None:
        id, image, expected = self._cases[number % len(self._cases)]
        request = [{"model_id": id, "inputs": [image]}]
        triton = None
        while True:
            try:
                if triton is None:
                    async with asyncio.timeout(20):  # a server that has just come back, on a busy machine
                        server = await self._connect({**self._config, "name": f"caller {number}"})
                        triton = await server.get_service("triton-client")
                async with asyncio.timeout(60):
                    answer = await triton.execute(inputs=request, model_name="bioengine-model-runner", serialization="imjoy")
            except Exception as error:
                self._failures.append(f"{type(error).__name__}: {str(error)[:300]}")
                triton = None
                await asyncio.sleep(0.5)
                continue
            result = answer["result"]
            if not result["success"]:
                self._failures.append(result["error"])
            elif np.allclose(result["outputs"][0], expected, atol=1e-3):
                self._right += 1
                self._answered.add(number)
                self._step()
            else:
                self._wrong += 1
            await asyncio.sleep(0.02)


async def main() -> None:
    library, url, number, cases = sys.argv[1:]
    callers = Callers(library, url, np.load(cases))
    tasks = [asyncio.ensure_future(callers.call(each)) for each in range(int(number))]
    while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(callers.told(), file=told, flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries log to stdout
    asyncio.run(main())
    os._exit(0)  # connections that a library goes on holding are of no interest
