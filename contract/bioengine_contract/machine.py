"""The machine that a process runs on, or its container."""

from __future__ import annotations

import os
from pathlib import Path


def machine_memory() -> int:
    """Bytes of the machine's memory, or of its container's where that has less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return machine
