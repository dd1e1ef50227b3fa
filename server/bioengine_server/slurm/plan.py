"""Which jobs to start and to end, from what is there and what is needed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bioengine_server.slurm.jobs import Job
from bioengine_server.slurm.server import Figures


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        start: how many jobs to submit.
        cancel: jobs that have not begun and are not needed.
        end: running jobs whose workers are not needed; they finish what they have in hand.
    """

    start: int = 0
    cancel: Sequence[Job] = ()
    end: Sequence[Job] = ()

    def __bool__(self) -> bool:
        return bool(self.start or self.cancel or self.end)


def plan(jobs: Sequence[Job], figures: Figures, needed: int, told: Collection[str], overlap: float, now: float) -> Plan:
    """
    Args:
        jobs: the loop's own.
        figures: of the server.
        needed: how many workers there shall be.
        told: ids of jobs that were already told to end.
        overlap: a job that Slurm ends within so many seconds gets a successor, and counts no more.
        now: in seconds since 1970.
    """
    there = [job for job in jobs if not job.ended and job.id not in told and not _drains(job, figures)]
    ending = [job for job in there if job.ends_within(overlap, now)]
    staying = [job for job in there if job not in ending]
    surplus = sorted(staying, key=lambda job: _worth(job, figures))[: max(0, len(staying) - needed)]
    joined = [job for job in staying if job not in surplus and (worker := figures.of(job.id)) and worker.state == "ready"]
    if len(joined) >= needed:  # the successors are there
        surplus += ending
    return Plan(
        start=max(0, needed - len(staying)),
        cancel=[job for job in surplus if job.waits],
        end=[job for job in surplus if not job.waits],
    )


def _drains(job: Job, figures: Figures) -> bool:
    worker = figures.of(job.id)
    return worker is not None and worker.draining


def _worth(job: Job, figures: Figures) -> tuple[bool, int, float, int]:
    """What is given up first has the least. Of what waits: what others or Slurm hold back, then the last submitted. Of what runs:
    what has not joined yet, then what does least, then what ends soonest."""
    if job.waits:
        return False, 0 if job.stuck or job.reason == "BeginTime" else 1, 0.0, -int(job.id)
    worker = figures.of(job.id)
    return True, -1 if worker is None else worker.in_flight, job.ends or float("inf"), -int(job.id)
