"""The memory of the device on which a model computes: how much is free, how much this process holds, how much a run takes."""

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

# CUDA's context and the code of its libraries, which a process holds on a card before it can measure anything there. Estimated:
# on one H200, processes at rest hold 650 to 850 MiB, including their weights.
_CONTEXT = 500 << 20  # bytes


class DeviceMemory(Protocol):
    """The memory of the device on which a model computes, and how much of it this process holds. Sizes are in bytes."""

    on_card: int
    """The memory that this process holds on a card."""

    def free(self) -> int:
        """The memory that this process can still take."""

    def used(self) -> int:
        """The memory in use: of this process on the host, of all processes on a card."""

    def highest(self) -> int:
        """The highest value of `used` so far; 0 if that is not known."""

    def kept(self) -> int:
        """The memory that this process holds beyond that at rest: frameworks keep it for the next image."""

    def counted(self) -> AbstractContextManager[None]:
        """Count the memory that is taken or returned while the context is open."""

    def opened(self) -> None:
        """The weights have been opened: the memory held now is the memory at rest."""

    def given_back(self) -> None:
        """The memory beyond that at rest has been returned."""


class HostMemory:
    """The memory of the machine, or of the container."""

    on_card = 0

    def __init__(self) -> None:
        self._at_rest = 0
        self.opened()

    def free(self) -> int:
        return available()

    def used(self) -> int:
        """The resident set, which is quick to read. It includes shared files, but these do not change during a run."""
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
    """The memory of a card, as CUDA's driver reports it to this process.

    How much this process holds is estimated from how much the card loses while the process opens weights and runs them, because
    NVML does not report it everywhere. Memory that other processes take at the same moment is counted too, until this process
    has returned its memory.
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
    """The bytes that this process can still take: of the machine's memory, or of its container's if that has less."""
    (free,) = re.findall(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    limit = _cgroup_bytes("memory.max")
    used = _cgroup_bytes("memory.current")
    if limit is None or used is None:
        return int(free) * 1024
    return min(int(free) * 1024, max(limit - used, 0))


def give_back() -> None:
    """Have glibc return freed memory to the system."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # no cgroup of its own, or no limit ("max")
        return None


class Peak:
    """The peak of the memory while it was watched. `bytes`: how much higher than before."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def watched(memory: DeviceMemory) -> Iterator[Peak]:
    """Watch a device's memory while the context is open; afterwards, the peak is known.

    The memory is read every few milliseconds, because the kernel reports only the peak since the process began, and for a card
    there is no such number. If the kernel's peak rises meanwhile, it is used too.
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
