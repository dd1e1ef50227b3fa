"""Many clients of both generations that vanish in the middle of an upload or of a run, and what a server keeps of them.

    python -m tests.stack.vanishing 5000

prints it after each tenth of so many clients, and a minute after the last.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from bioengine_contract import message

from tests.stack.harness import RUNNER, Stack, build_packages, fill_home
from tests.stack.raw import GENERATIONS, RawClient

AT_ONCE = 4
WARM_UP = 100
"""Clients after which a server has made what it makes once, such as connections to Triton."""

_MODEL = "old-otter"
_IMAGE = message.represent(np.zeros((1, 1, 700, 700), np.float32))  # 2 MB, which pass as a file in memory
_CHUNK, _CHUNKS = bytes(500_000), 4
_STAY = 0.05  # seconds at most that one stays after it has sent


@dataclass(frozen=True)
class Footprint:
    """Of the server's own process. `memory`: PSS in bytes."""

    memory: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, stack: Stack) -> Footprint:
        assert stack.process is not None
        server = psutil.Process(stack.process.pid)
        return cls(stack.server_pss(), server.num_fds(), server.num_threads())

    def __str__(self) -> str:
        return f"{self.memory / 1e6:.0f} MB, {self.descriptors} descriptors, {self.threads} threads"


def vanish(stack: Stack, number: int) -> None:
    """One client, of a generation and at a point that its number says, half of them in the middle of an upload."""
    client = RawClient(stack, GENERATIONS[number % 2], f"vanishing-{number}")
    try:
        (_upload if number // 2 % 2 else _run)(client, f"upload-{number}")
        time.sleep(random.Random(number).uniform(0, _STAY))
    finally:
        client.vanish()


def vanish_all(stack: Stack, numbers: range) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda number: vanish(stack, number), numbers))


def _upload(client: RawClient, key: str) -> None:
    client.call("services.built-in.message_cache.create", key)
    for _ in range(_CHUNKS):
        client.send(client.frame("services.built-in.message_cache.append", key, _CHUNK))


def _run(client: RawClient, _: str) -> None:
    arguments = {"inputs": [{"model_id": _MODEL, "inputs": [_IMAGE]}], "model_name": RUNNER, "serialization": "imjoy"}
    client.send(client.frame(f"{client.service}.execute", arguments, session="run", with_kwargs=True))


def main(clients: int) -> None:
    with tempfile.TemporaryDirectory(prefix="vanishing-") as temporary:
        folder = Path(temporary)
        build_packages(folder / "packages")
        fill_home(folder / "home", folder / "packages")
        with Stack(folder / "home") as stack:
            started, step = time.monotonic(), -(-clients // 10)
            vanish_all(stack, range(WARM_UP))
            time.sleep(60)
            print(f"at rest, after {WARM_UP} clients: {Footprint.of(stack)}", flush=True)
            for first in range(0, clients, step):
                last = min(first + step, clients)
                vanish_all(stack, range(WARM_UP + first, WARM_UP + last))
                print(f"{last} clients, {time.monotonic() - started:.0f} s: {Footprint.of(stack)}", flush=True)
            for seconds in (10, 50):
                time.sleep(seconds)
                print(f"{seconds} s later: {Footprint.of(stack)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
