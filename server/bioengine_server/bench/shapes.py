"""Images of different sizes in turn: the time for each, compared with images of that size alone.

ONNX Runtime and cuDNN plan convolutions for the size of their input, and may plan anew whenever the size changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bioengine_server.bench.client import Client
from bioengine_server.bench.measurement import Measurement, is_trial
from bioengine_server.bench.stack import LIBRARIES, BenchStack

_SIDES = (256, 512, 1024)
_MODEL = "bench-unet"
_WARM_UP = 2
_LIBRARY = LIBRARIES[-1]
_LIMIT = 2.0  # times an image of the same size alone


def shapes(stack: BenchStack, rounds: int) -> list[Measurement]:
    measurements = []
    with ExitStack() as parts:
        user = parts.enter_context(stack.user(_LIBRARY))
        cases = {side: partial(_run, user, stack, side, itertools.count()) for side in _SIDES}
        alone = {side: _values([case], rounds)[0] for side, case in cases.items()}
        in_turn = dict(zip(cases, _values(list(cases.values()), rounds)))
        for side in _SIDES:
            reference = Measurement(f"{side}x{side} alone", "ms", alone[side])
            name = f"{side}x{side} between other sizes"
            measurements += [reference, Measurement(name, "ms", in_turn[side], reference, ratio_limit=_LIMIT)]
    return measurements


def _run(user: Client, stack: BenchStack, side: int, seeds: itertools.count[int]) -> float:
    return user.predict(_MODEL, (1, 1, side, side), next(seeds), stack.folder / "shapes.npy")


def _values(cases: list[Callable[[], float]], rounds: int) -> list[tuple[float, ...]]:
    """The values of each case, measured one after the other in each round, without the rounds that warm up."""
    warm_up = 0 if is_trial(rounds) else _WARM_UP
    measured = [[case() for case in cases] for _ in range(warm_up + rounds)][warm_up:]
    return [tuple(values) for values in zip(*measured)]
