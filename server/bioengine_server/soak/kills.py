"""Processes that are killed while callers are at work, and how long it takes until all is as it was."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import psutil
from bioengine_contract.ids import RUNNER

from bioengine_server.bench.stack import BenchStack, group_of
from bioengine_server.network.http_get import get
from bioengine_server.own_server import why_not_ready
from bioengine_server.soak.caller import Caller
from bioengine_server.soak.plan import Action, Image
from bioengine_server.triton.orphans import processes_of, processes_of_model

MAX_RECOVERY = 10.0
"""Seconds, of each kill."""

KINDS = ("a model's process", "an instance of the model runner", "Triton")

_GAP = (10.0, 20.0)  # seconds from the recovery to the next kill
_PATIENCE = 120.0  # seconds
_LOOK_INTERVAL = 0.1  # seconds
_SMALL = {
    "bench-echo": (1, 1, 16, 16),
    "drawn-nuclei": (1, 1, 72, 72),
    "bench-unet": (1, 1, 104, 104),
    "bench-unet-3d": (1, 1, 20, 20, 20),
}


@dataclass(frozen=True)
class Kill:
    """One of `KINDS`; `started` and `ended` in seconds of `time.monotonic`, `ended` where all was well again."""

    kind: str
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class Killer:
    """Kills in turn, in an order and with pauses that follow from a seed."""

    def __init__(self, stack: BenchStack, seed: str, prober: Caller) -> None:
        """
        Args:
            stack: whose processes are killed.
            seed: of the order.
            prober: a client that nobody else uses.
        """
        self._stack = stack
        self._prefix = stack.settings.shm_prefix
        self._random = random.Random(seed)  # noqa: S311  # it guards nothing, and is to be repeated
        self._prober = prober
        self.kills: list[Kill] = []

    def run(self, over: threading.Event) -> None:
        """Until `over`; a kill is always seen to its recovery."""
        for kind in self._kinds():
            if over.wait(self._random.uniform(*_GAP)):
                return
            self.kill(kind)

    def kill(self, kind: str) -> None:
        """Kill one, and wait until clients get answers of what was killed, it is back, and the server says that it is ready."""
        with contextlib.suppress(psutil.NoSuchProcess):
            model, is_back = self._killed(kind)
            started = time.monotonic()
            while time.monotonic() - started < _PATIENCE:
                if why_not_ready(self._stack.settings.url) is None and is_back() and self._answers(model):
                    break
                time.sleep(_LOOK_INTERVAL)
            self.kills.append(Kill(kind, started, time.monotonic()))

    def _kinds(self) -> Iterator[str]:
        """Each of them in each round."""
        while True:
            yield from self._random.sample(KINDS, len(KINDS))

    def _killed(self, kind: str) -> tuple[str, Callable[[], bool]]:
        """Kill a process; returns the model to ask for, and what says whether the process is replaced.

        Raises psutil.NoSuchProcess where it is not there at the moment.
        """
        if kind == "Triton":
            triton = self._one_of(self._tritons())
            triton.kill()
            return "bench-echo", lambda: any(each.pid != triton.pid for each in self._tritons())
        if kind == KINDS[1]:
            instances = processes_of_model(self._prefix, RUNNER)
            chosen = self._one_of(instances)
            chosen.kill()
            return "bench-echo", lambda: self._has_instances(len(instances), chosen.pid)
        model = self._random.choice(self._loaded() or list(_SMALL))
        for process in processes_of_model(self._prefix, model):
            process.kill()
        return model, lambda: True

    def _loaded(self) -> list[str]:
        """Models of the soak that are open: one that dies while it opens its weights is given up for a while, as it should be."""
        try:
            status = get(f"{self._stack.settings.url}/public/services/triton-client/get_status", 5).json()
            loaded = {model["name"] for model in status["models"]}
        except (httpx.HTTPError, ValueError, KeyError):
            return []
        return [model for model in _SMALL if model in loaded]

    def _one_of(self, processes: list[psutil.Process]) -> psutil.Process:
        if not processes:
            raise psutil.NoSuchProcess(0)
        return self._random.choice(sorted(processes, key=lambda each: each.pid))

    def _tritons(self) -> list[psutil.Process]:
        return [each for each in processes_of(self._prefix) if group_of(each.info["cmdline"]) == "Triton"]

    def _has_instances(self, count: int, killed: int) -> bool:
        pids = {each.pid for each in processes_of_model(self._prefix, RUNNER)}
        return killed not in pids and len(pids) >= count

    def _answers(self, model: str) -> bool:
        request = {"model_id": model, "inputs": [Image(model, _SMALL[model], 1).told()]}
        return self._prober.do(Action("probe", request, ("result",))).outcome == "result"
