"""The process group of the latest Triton, in a file, so that the next start ends what is left of it.

All that Triton starts stays in its group (its confinement refuses setsid and setpgid). When the server is killed, Triton ends
with it, but programs that its models have started do not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_START_OF_MACHINE = Path("/proc/sys/kernel/random/boot_id")


def remember(file: Path, pid: int) -> None:
    """Note that the group of `pid`, a process that leads one, is Triton's."""
    with contextlib.suppress(OSError, psutil.Error):
        file.write_text(json.dumps([_START_OF_MACHINE.read_text(), pid, psutil.Process(pid).create_time()]))


def end_remembered(file: Path) -> None:
    """Kill what is left of the group in `file`. Never raises OSError."""
    try:
        machine, group, started = json.loads(file.read_text())
        if machine != _START_OF_MACHINE.read_text() or not isinstance(group, int) or group <= 1:
            return
        # No process gets the number of a group that is there; one that has it is the leader, or the group had ended before.
        if psutil.pid_exists(group) and psutil.Process(group).create_time() != started:
            return
        os.killpg(group, signal.SIGKILL)
        logger.warning("Ended what was left of an earlier Triton, process group %d", group)
    except (OSError, ValueError, TypeError, psutil.Error):
        pass  # nothing is left, nothing is known of it, or it is of another user
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
