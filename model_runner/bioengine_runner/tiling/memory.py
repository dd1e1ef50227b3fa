"""How much memory there is for a run, and how much of it a run takes."""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that this process may still take: of the machine, or of its container where that has less."""
    (free,) = re.findall(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    limit = _cgroup_bytes("memory.max")
    used = _cgroup_bytes("memory.current")
    if limit is None or used is None:
        return int(free) * 1024
    return min(int(free) * 1024, max(limit - used, 0))


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # no cgroup of its own, or no limit ("max")
        return None


class Peak:
    """The most memory that this process took while it was watched. `bytes` beyond what it had before."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def watched() -> Iterator[Peak]:
    """Watch the process's memory; the peak is there at the end."""
    peak = Peak()
    # The kernel tells the highest since the process began, and a confined process cannot have it begin anew: what was taken then
    # and is free now is taken once more meanwhile, so that all that is taken beyond shows.
    with _taken(_status("VmHWM") - _status("VmRSS")):
        before = max(_status("VmHWM"), _status("VmRSS"))
        yield peak
        peak.bytes = max(0, _status("VmHWM") - before)


@contextlib.contextmanager
def _taken(size: int) -> Iterator[None]:
    """Hold as many bytes of memory."""
    if size <= 0:
        yield
        return
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        yield


def _status(name: str) -> int:
    (value,) = re.findall(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(value) * 1024
