"""Processes, identified by pid and start time from /proc: a pid alone may meanwhile belong to another process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """A process on this node. `started`: when it started, in clock ticks since the node's boot (field 22 of /proc/<pid>/stat)."""

    pid: int
    started: int

    @classmethod
    def current(cls) -> Process:
        pid = os.getpid()
        state = _state(pid)
        assert state is not None
        return cls(pid, state[1])

    def is_alive(self) -> bool:
        """Whether the process runs. A zombie is not alive: Triton does not collect its dead children."""
        state = _state(self.pid)
        return state is not None and state[0] not in "ZX" and state[1] == self.started

    def how_it_ended(self) -> str:
        """How a process that is not alive ended, as the second half of a sentence.

        Triton does not collect its dead children, so the kernel still has their exit status.
        """
        state = _state(self.pid)
        if state is None or state[0] not in "ZX" or state[1] != self.started:
            return "its process has ended"
        status = state[2]
        if not os.WIFSIGNALED(status):
            return f"its process ended itself, with status {os.waitstatus_to_exitcode(status)}"
        if os.WTERMSIG(status) == signal.SIGKILL:
            return "its process was killed, most likely because the machine's memory was full"
        return f"its process crashed ({signal.strsignal(os.WTERMSIG(status))})"

    def memory(self) -> int:
        """The memory that the process holds, in bytes; 0 if it has ended.

        Memory that it shares with other processes, such as images, counts in part (the proportional set); if the kernel does not
        report that, in full (the resident set).
        """
        try:
            with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as file:
                sizes = [line.split() for line in file if line.startswith("Pss:")]
            return int(sizes[0][1]) * 1024
        except (OSError, ValueError, IndexError):
            return self._resident_set()

    def _resident_set(self) -> int:
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def end(self, timeout: float) -> None:
        """Wait `timeout` seconds for the process to end by itself, then kill it."""
        if not self._ends_within(timeout):
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            self._ends_within(5)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _state(pid: int) -> tuple[str, int, int] | None:
    """State letter, start time and (once it is dead) wait status of a process; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19]), int(fields[49])
