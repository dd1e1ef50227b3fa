"""Memory of the whole stack with a small model: at rest, its peak while large images are run, and after the measurements."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bioengine_server.bench.measurement import Measurement
from bioengine_server.bench.stack import LIBRARIES, BenchStack

_SIDE = 2048  # pixels: 16 MB
_ECHOES = 3
_REST = 45.0  # seconds; what is given back is given back within a minute


def memory(stack: BenchStack, rounds: int) -> list[Measurement]:
    """The first subject, because shared memory that a large image has taken stays taken. `rounds` makes no difference."""
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
    """The last subject: the memory that models hold when they have been idle after their images. `rounds` makes no difference."""
    time.sleep(_REST)
    return [
        Measurement("memory after all, with the models of the bench", "MB", (stack.memory() / 1e6,)),
        *([Measurement("GPU memory after all", "MB", (held / 1e6,))] if (held := stack.card_memory()) else []),
    ]
