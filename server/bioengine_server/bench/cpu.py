"""The CPU time that each process of the stack uses for one measurement.

It is shown beside the duration, because several processes work at once: with more processors, an answer comes sooner but uses the
same CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

# Processes still tidy up after an answer; this counts as well.
_TAIL = 0.02  # seconds

Groups = Mapping[str, Iterable[int]]
"""Process ids, by what is told of them together."""


class Worker(Protocol):
    """A client process that reports the CPU time of its last run, without that for making the image and comparing the result."""

    cpu: float
    """ms"""


class Watched:
    """A case that is measured, with the CPU time that it used, in ms."""

    def __init__(self, case: Callable[[], float], client: Worker, groups: Callable[[], Groups]) -> None:
        """
        Args:
            case: measures once.
            client: the client process that runs the case.
            groups: returns the other processes to look at, by group.
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
        """The CPU times of the last `rounds` measurements in ms, by group; the client's group is called `client`."""
        return {name: tuple(spent[name] for spent in self._seen[-rounds:]) for name in self._seen[-1]}


def cpu_time(processes: Iterable[int]) -> float:
    """The CPU time of processes since their start, with all threads, in seconds; 0 for a process that has ended."""
    return sum(map(_cpu_time, processes))


def _cpu_time(pid: int) -> float:
    try:
        # The CPU clock of another process, as in clock_getcpuclockid(3) of Linux: in nanoseconds, while /proc has hundredths.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
