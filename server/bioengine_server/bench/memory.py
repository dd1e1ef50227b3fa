"""Memory of the whole stack with one small model loaded: at rest, the most while large images pass, and after all of it."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bioengine_server.bench.measurement import Measurement
from bioengine_server.bench.stack import LIBRARIES, BenchStack

_SIDE = 2048  # pixels: 16 MB
_ECHOES = 3
_REST = 45.0  # seconds; what is given back is given back within a minute


def memory(stack: BenchStack, rounds: int) -> list[Measurement]:
    """First of all subjects, for what a large image once took in shared memory stays taken. `rounds` makes no difference."""
    with ExitStack() as parts:
        users = [parts.enter_context(stack.user(library)) for library in LIBRARIES]
        for user in users:
            user.echo(side=16)
        at_rest = stack.memory()
        with stack.peak_memory() as seen:
            for _ in range(_ECHOES):
                for user in users:
                    user.echo(_SIDE)
    return [
        Measurement("memory at rest", "MB", (at_rest / 1e6,)),
        Measurement("memory, peak while 16 MB pass", "MB", (max(seen) / 1e6,)),
    ]


def memory_after(stack: BenchStack, rounds: int) -> list[Measurement]:
    """Last of all subjects: what models hold after their images, when they have rested. `rounds` makes no difference."""
    time.sleep(_REST)
    return [
        Measurement("memory after all, with the models of the bench", "MB", (stack.memory() / 1e6,)),
        *([Measurement("GPU memory after all", "MB", (held / 1e6,))] if (held := stack.card_memory()) else []),
    ]
