"""A job of Slurm, as `squeue` tells of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bioengine_server.slurm.errors import UnreadableSlurm

FORMAT = "%i|%T|%e|%l|%N|%r"
"""What `squeue` is asked for: id, state, end (seconds, by SLURM_TIME_FORMAT), time limit, nodes, reason. No reason has a `|`."""

# States of squeue(1). A job that is completing still holds its node, but its worker has ended.
_WAITS = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "STAGE_OUT",
    "TIMEOUT",
}
_FAILED = {"BOOT_FAIL", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
# Reasons of pending jobs that no waiting ends (squeue(1)): somebody has to do something.
_STUCK = re.compile(r"held|Bad|Invalid|NotAllowed|Partition(Down|Inactive|TimeLimit|NodeLimit)|PerJob", re.IGNORECASE)
_ID = re.compile(r"\d+")
_LIMIT = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")


@dataclass(frozen=True)
class Job:
    """
    Attributes:
        id: a number.
        state: as in squeue(1), such as PENDING.
        ends: when Slurm will end it, in seconds since 1970: its time limit or, once it is preempted, its grace time. None: never.
        limit: its time limit in seconds. None: it has none.
        nodes: where it runs; empty while it waits.
        reason: why it waits; None otherwise.
    """

    id: str
    state: str
    ends: float | None = None
    limit: float | None = None
    nodes: str = ""
    reason: str = "None"

    @property
    def waits(self) -> bool:
        """Whether it has not begun yet; requeued after preemption, not again."""
        return self.state in _WAITS

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than by itself, its time limit, preemption or somebody's wish."""
        return self.state in _FAILED

    @property
    def stuck(self) -> bool:
        """Whether it waits for something that does not come by itself."""
        return self.waits and bool(_STUCK.search(self.reason))

    def ends_within(self, seconds: float, now: float) -> bool:
        """Whether it runs, and Slurm ends it in at most that time, or in the second half of its time limit if that is shorter."""
        if self.waits or self.ended or self.ends is None:
            return False
        return self.ends - now < (seconds if self.limit is None else min(seconds, self.limit / 2))


def read_jobs(text: str) -> list[Job]:
    """The jobs in what `squeue` printed in FORMAT; elements of arrays are left out, which the loop never submits.

    Raises UnreadableSlurm.
    """
    jobs = []
    for line in text.splitlines():
        fields = line.split("|", 5)
        if len(fields) != 6 or not fields[1].isupper():
            raise UnreadableSlurm("squeue", line)
        job_id, state, ends, limit, nodes, reason = (field.strip() for field in fields)
        if _ID.fullmatch(job_id):
            jobs.append(Job(job_id, state, _time(ends), _seconds(limit), nodes, reason))
    return jobs


def _time(text: str) -> float | None:
    return float(text) if _ID.fullmatch(text) else None  # N/A, NONE: not known, never


def _seconds(text: str) -> float | None:
    """A time limit, such as 1-12:00:00 or 30:00; None for UNLIMITED and the like."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
