"""Many callers of one model at the same time: the time per answer, compared with a single caller. All answers are checked."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bioengine_server.bench.client import Client
from bioengine_server.bench.measurement import Measurement, interleaved, is_trial
from bioengine_server.bench.stack import LIBRARIES, BenchStack

_CALLERS = 16
_RUNS = 48  # of each measurement, shared among its callers
_MODEL, _SHAPE = "bench-unet", (1, 1, 256, 256)
_LIBRARY = LIBRARIES[-1]

# Limits for the time per answer. A single caller leaves a card idle nine tenths of the time, but keeps the processor busy.
_LIMIT_ON_CARD, _LIMIT = 1 / 3, 1.1


def crowd(stack: BenchStack, rounds: int) -> list[Measurement]:
    with ExitStack() as parts:
        users = [parts.enter_context(stack.user(_LIBRARY)) for _ in range(_CALLERS)]
        runs = _Runs(stack, _CALLERS if is_trial(rounds) else _RUNS)
        cases = {"one": lambda: runs.by(users[:1]), "many": lambda: runs.by(users)}
        values = interleaved(cases, max(1, rounds // 3), warm_up=min(1, rounds // 3))
    reference = Measurement("256x256, answers to 1 caller", "ms", values["one"])
    limit = _LIMIT_ON_CARD if stack.has_card() else _LIMIT
    name = f"256x256, answers to {_CALLERS} callers"
    return [reference, Measurement(name, "ms", values["many"], reference, ratio_limit=limit)]


class _Runs:
    """Runs of one model by several clients at the same time."""

    def __init__(self, stack: BenchStack, count: int) -> None:
        self._folder = stack.folder
        self._count = count
        self._seeds = itertools.count()

    def by(self, users: Sequence[Client]) -> float:
        """The mean time from one answer to the next, in ms. Raises BenchFailed."""
        each = self._count // len(users)

        def run(number: int, user: Client) -> None:
            for _ in range(each):
                user.predict(_MODEL, _SHAPE, next(self._seeds), self._folder / f"crowd-{number}.npy")

        started = time.perf_counter()
        with ThreadPoolExecutor(len(users)) as pool:
            list(pool.map(run, range(len(users)), users))
        return (time.perf_counter() - started) / (each * len(users)) * 1000
