"""CPU time: how much each process of the stack works for one measurement, beside how long it takes.

Several processes work at once, and wait for each other: with a second processor an answer may come sooner and cost the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

# After an answer its maker still tidies up, which belongs to it.
_TAIL = 0.02  # seconds

Groups = Mapping[str, Iterable[int]]
"""Process ids, by what is told of them together."""


class Worker(Protocol):
    """A client process that says what its last run cost: the run alone, without making its image and comparing what came back."""

    cpu: float
    """ms"""


class Watched:
    """A case that is measured, and the CPU time that it took, in ms."""

    def __init__(self, case: Callable[[], float], client: Worker, groups: Callable[[], Groups]) -> None:
        """
        Args:
            case: measures once.
            client: whose run that is.
            groups: gives the processes to look at beside the client.
        """
        self._case = case
        self._client = client
        self._groups = groups
        self._seen: list[dict[str, float]] = []

    def __call__(self) -> float:
        """Measure once."""
        groups = {name: list(processes) for name, processes in self._groups().items()}
        before = {name: cpu_time(processes) for name, processes in groups.items()}
        value = self._case()
        time.sleep(_TAIL)
        spent = {name: cpu_time(processes) - before[name] for name, processes in groups.items()}
        self._seen.append({name: seconds * 1000 for name, seconds in spent.items()} | {"client": self._client.cpu})
        return value

    def cpu(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """Of the last `rounds` measurements, by group and `client`, one for each, in ms."""
        return {name: tuple(spent[name] for spent in self._seen[-rounds:]) for name in self._seen[-1]}


def cpu_time(processes: Iterable[int]) -> float:
    """Seconds that processes have worked since they began, all their threads together; 0 of one that has ended."""
    return sum(map(_cpu_time, processes))


def _cpu_time(pid: int) -> float:
    try:
        # The clock of another process, as clock_getcpuclockid(3) has it in Linux: nanoseconds, where /proc has hundredths.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
