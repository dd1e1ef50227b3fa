"""Run a model that returns its input, with both client libraries: the time for the whole way there and back."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from bioengine_server.bench.floor import echo_server
from bioengine_server.bench.measurement import Measurement, interleaved
from bioengine_server.bench.stack import LIBRARIES, BenchStack

_WARM_UP = 2
_SIZES = (("4 MB", 1024, 100.0), ("16 MB", 2048, 400.0))
"""Name, pixels of a side, limit in ms."""


def echo(stack: BenchStack, rounds: int) -> list[Measurement]:
    measurements = []
    with ExitStack() as parts:
        floor = parts.enter_context(stack.floor_user(parts.enter_context(echo_server())))
        users = {library: parts.enter_context(stack.user(library)) for library in LIBRARIES}
        for size, side, limit in _SIZES:
            cases = {library: stack.watched(partial(user.echo, side), user) for library, user in users.items()}
            values = interleaved({"floor": partial(floor.echo, side), **cases}, rounds, _WARM_UP)
            reference = Measurement(f"floor {size}", "ms", values["floor"])
            measurements.append(reference)
            measurements += [
                Measurement(
                    f"echo {size}, {library}", "ms", values[library], reference, limit=limit, cpu=cases[library].cpu(rounds)
                )
                for library in LIBRARIES
            ]
    return measurements
