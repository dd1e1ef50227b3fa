"""All measurements, one subject after the other, on one stack."""

from __future__ import annotations

from collections.abc import Callable

from bioengine_server.bench.core import core
from bioengine_server.bench.crowd import crowd
from bioengine_server.bench.echo import echo
from bioengine_server.bench.huge import huge
from bioengine_server.bench.measurement import Measurement
from bioengine_server.bench.memory import memory, memory_after
from bioengine_server.bench.proxy import proxy
from bioengine_server.bench.shapes import shapes
from bioengine_server.bench.stack import CLIENT_ENVIRONMENTS, bench_stack
from bioengine_server.bench.worker import worker
from bioengine_server.environments import build_environments
from bioengine_server.errors import StackError
from bioengine_server.settings import Settings

Subject = Callable[..., list[Measurement]]
"""Takes a `BenchStack` and the number of rounds."""

# Memory comes first, before any large model is loaded.
SUBJECTS: tuple[Subject, ...] = (memory, huge, echo, proxy, core, shapes, crowd, worker, memory_after)


def run_bench(settings: Settings, rounds: int, with_huge: bool, tell: Callable[[str], None]) -> list[Measurement]:
    """Start a stack, measure every subject, end the stack. Raises StackError, BenchFailed, TooLittleSharedMemory.

    Args:
        settings: the settings of the stack, except home, ports and addresses.
        rounds: how often each case is measured.
        with_huge: whether to run a huge image as well.
        tell: called with what is done next.
    """
    tell("Looking for the client libraries")
    if not build_environments(*CLIENT_ENVIRONMENTS.values()):
        raise StackError("The client libraries to measure with could not be installed; what is above says why.")
    tell("Starting a server")
    measurements = []
    with bench_stack(settings) as stack:
        for subject in SUBJECTS:
            if subject is huge and not with_huge:
                continue
            tell(f"Measuring {subject.__name__}")
            measurements += subject(stack, rounds)
    return measurements
