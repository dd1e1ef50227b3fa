"""How much memory there is where a model computes, how much of it this process holds, and how much a run takes."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from bioengine_runner.gpu import card_memory

_CGROUP = Path("/sys/fs/cgroup")

_LOOK_INTERVAL = 0.01  # seconds, between two looks at a process's memory while it is watched

# CUDA's own context and its libraries' code, which a process takes of a card before anything can be measured there: one H200,
# where processes at rest hold 650 to 850 MiB with their weights.
_CONTEXT = 500 << 20  # bytes


class DeviceMemory(Protocol):
    """The memory of the device that a model computes on, and what this process holds of it. Sizes in bytes."""

    on_card: int
    """What it holds of a card."""

    def free(self) -> int:
        """What this process may still take."""

    def used(self) -> int:
        """What grows and shrinks with what this process takes."""

    def highest(self) -> int:
        """The most that `used` ever was; 0 where nobody knows."""

    def kept(self) -> int:
        """What is held beyond what is held at rest: frameworks keep it for the next image."""

    def counted(self) -> AbstractContextManager[None]:
        """Count what is taken, or given back, meanwhile."""

    def opened(self) -> None:
        """What is held now is what is held at rest."""

    def given_back(self) -> None:
        """All but that was given back."""


class HostMemory:
    """Of the machine, or of the container."""

    on_card = 0

    def __init__(self) -> None:
        self._at_rest = 0
        self.opened()

    def free(self) -> int:
        return available()

    def used(self) -> int:
        """The resident set: cheap to ask, and of what is shared with others only files, which do not change in a run."""
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def highest(self) -> int:
        (size,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(size) * 1024

    def kept(self) -> int:
        return max(0, self.used() - self._at_rest)

    def counted(self) -> AbstractContextManager[None]:
        return nullcontext()

    def opened(self) -> None:
        self._at_rest = self.used()

    def given_back(self) -> None:
        pass


class CardMemory:
    """Of a card, as CUDA's driver says to this process. What it holds itself is reckoned from what it sees the card lose while
    it opens weights and works: NVML does not say it everywhere. What others take at the same moment is counted too, until the
    memory is given back.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._at_rest = 0
        self.on_card = 0

    def free(self) -> int:
        found = card_memory(self._index)
        return 0 if found is None else found[0]

    def used(self) -> int:
        found = card_memory(self._index)
        return 0 if found is None else found[1] - found[0]

    def highest(self) -> int:
        return 0

    def kept(self) -> int:
        return max(0, self.on_card - self._at_rest)

    @contextmanager
    def counted(self) -> Iterator[None]:
        before = self.used()
        try:
            yield
        finally:
            self.on_card = max(_CONTEXT, (self.on_card or _CONTEXT) + self.used() - before)

    def opened(self) -> None:
        self._at_rest = self.on_card

    def given_back(self) -> None:
        self.on_card = self._at_rest


def available() -> int:
    """Bytes that this process may still take: of the machine, or of its container where that has less."""
    (free,) = re.findall(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    limit = _cgroup_bytes("memory.max")
    used = _cgroup_bytes("memory.current")
    if limit is None or used is None:
        return int(free) * 1024
    return min(int(free) * 1024, max(limit - used, 0))


def give_back() -> None:
    """Have glibc return to the system what was freed and it keeps for later."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # no cgroup of its own, or no limit ("max")
        return None


class Peak:
    """The most memory that was taken while it was watched. `bytes` beyond what there was before."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def watched(memory: DeviceMemory) -> Iterator[Peak]:
    """Watch what is taken of a device's memory; the peak is there at the end.

    It is looked at again and again: the kernel tells only the highest since the process began, and of a card there is no such
    number. Where that highest rises meanwhile, it is the peak.
    """
    peak, before, highest, over = Peak(), memory.used(), memory.highest(), threading.Event()

    def look() -> None:
        peak.bytes = max(peak.bytes, memory.used() - before)

    def look_again_and_again() -> None:
        while not over.wait(_LOOK_INTERVAL):
            look()

    thread = threading.Thread(target=look_again_and_again, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        look()
        if memory.highest() > highest:
            peak.bytes = max(peak.bytes, memory.highest() - before)
