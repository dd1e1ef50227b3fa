"""The loop: ask the server, look at the queue, submit and end jobs."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bioengine_contract.errors import BioEngineError

from bioengine_server.slurm.errors import JobFailed, LoopRuns, SlurmError
from bioengine_server.slurm.jobs import Job
from bioengine_server.slurm.need import Need, needed_now
from bioengine_server.slurm.plan import Plan, plan
from bioengine_server.slurm.queue import Queue
from bioengine_server.slurm.server import Figures, Server

logger = logging.getLogger(__name__)

ASK_INTERVAL = 2.0  # seconds between two questions to the server, which cost nothing
LOOK_INTERVAL = 15.0  # seconds between two looks at Slurm's queue while nothing is to do: its controller serves many
_TOLD = 120.0  # seconds until a job that was told to end, and goes on, is told again: it may not have begun to listen
_FIRST_PAUSE, _MAX_PAUSE = 10.0, 600.0  # seconds without new jobs after one failed, doubled with each that fails
_FAILURES_COUNT = 1800.0  # seconds


class Loop:
    """Keeps as many jobs in the queue as are needed. Its state is what Slurm and the server say: it may be restarted any time."""

    def __init__(self, server: Server, queue: Queue, need: Need, overlap: float, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            overlap: a job that ends within so many seconds gets a successor.
            clock: seconds since 1970.
        """
        self._server, self._queue, self._need, self._overlap, self._clock = server, queue, need, overlap, clock
        self._jobs: dict[str, Job] = {}  # as last seen
        self._looked: float | None = None
        self._told: dict[str, float] = {}  # when a job was told to end
        self._there: set[str] = set()  # jobs whose worker was at the server when it was last asked
        self._joined: set[str] = set()  # jobs whose worker has ever been seen there
        self._failures: list[float] = []
        self._said = ""

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop`. The jobs go on after it."""
        while not stop.is_set():
            try:
                self.step()
                self._say("")
            except BioEngineError as error:
                self._say(str(error))
            stop.wait(ASK_INTERVAL)

    def step(self) -> None:
        """Ask, look, act. Raises what keeps it from that; jobs then stay as they are until the next step."""
        figures = self._server.figures()
        now = self._clock()
        if self._looked is None:
            self._look()
            # After a restart, what is there counts as needed until it was not for as long as usual.
            self._need.see(sum(not job.ended for job in self._jobs.values()), now)
        there = {job for job in self._jobs if figures.of(job)}
        has_left, self._there = bool(self._there - there), there
        self._joined |= there
        self._need.see(needed_now(figures, self._jobs), now)
        if not (has_left or self._plan(figures)) and now - (self._looked or 0) < LOOK_INTERVAL:
            return
        self._look()  # what is done is done on what is there now
        self._act(self._plan(figures), figures)

    def _plan(self, figures: Figures) -> Plan:
        now = self._clock()
        told = {job for job, when in self._told.items() if now - when < _TOLD}
        found = plan([*self._jobs.values()], figures, self._need.workers, told, self._overlap, now)
        return found if now >= self._paused_until else Plan(0, found.cancel, found.end)

    @property
    def _paused_until(self) -> float:
        """When jobs may be submitted again."""
        recent = [when for when in self._failures if self._clock() - when < _FAILURES_COUNT]
        self._failures = recent
        return recent[-1] + min(_MAX_PAUSE, _FIRST_PAUSE * 2 ** (len(recent) - 1)) if recent else 0.0

    def _look(self) -> None:
        """See which jobs there are, and what became of those that there were."""
        before, self._jobs = self._jobs, {job.id: job for job in self._queue.jobs()}
        first, self._looked = self._looked is None, self._clock()
        for job in self._jobs.values():
            was = before.get(job.id)
            if first and not job.ended:
                logger.info("Found job %s (%s).", job.id, job.state)
            elif not first and (was is None or was.state != job.state):
                self._tell(job, was)
        for job in before.values():
            if job.id not in self._jobs and not job.ended:  # it ended, and Slurm forgot it already
                self._tell_end(replace(job, state="GONE"))
        self._told = {job: when for job, when in self._told.items() if job in self._jobs}
        self._joined &= set(self._jobs)

    def _tell(self, job: Job, was: Job | None) -> None:
        if job.ended:
            if job.state != "COMPLETING" and (was is None or not was.ended or was.state == "COMPLETING"):
                self._tell_end(job)
        elif job.stuck:
            logger.warning("Job %s waits for something that does not come by itself: %s (squeue(1)).", job.id, job.reason)
        elif job.waits and was is not None and not was.waits:
            logger.info("Job %s was requeued, and waits (%s).", job.id, job.reason)
        elif not job.waits:
            logger.info("Job %s is %s on %s.", job.id, job.state.lower(), job.nodes or "a node")

    def _tell_end(self, job: Job) -> None:
        joined = job.id in self._joined
        if job.id in self._told or (not job.failed and (joined or job.state in ("CANCELLED", "PREEMPTED"))):
            logger.info("Job %s has ended (%s).", job.id, job.state)
            return
        log, last_line = "", ""
        with contextlib.suppress(SlurmError):
            log = self._queue.log_of(job.id)
        with contextlib.suppress(OSError):
            last_line = _last_line(Path(log)) if log else ""
        self._pause(JobFailed(job.id, job.state, joined, log, last_line))

    def _pause(self, error: SlurmError) -> None:
        """Submit no job for a while, the longer the more went wrong lately."""
        self._failures.append(self._clock())
        pause = self._paused_until - self._clock()
        logger.warning("%s The next job is submitted in %.0f s, if one is needed then.", str(error).rstrip(".") + ".", pause)

    def _act(self, found: Plan, figures: Figures) -> None:
        why = f"{figures.waiting} requests wait, {figures.running} run; workers needed: {self._need.workers}"
        for job in found.cancel:
            self._queue.cancel_waiting(job.id)
            self._told[job.id] = self._clock()
            logger.info("Cancelled job %s, which had not begun (%s).", job.id, why)
        for job in found.end:
            self._queue.end(job.id)
            self._told[job.id] = self._clock()
            logger.info("Told job %s to finish and end (%s).", job.id, why)
        for _ in range(found.start):
            try:
                job_id = self._queue.submit()
            except SlurmError as error:
                self._pause(error)
                return
            self._jobs[job_id] = Job(job_id, "PENDING")
            logger.info("Submitted job %s (%s).", job_id, why)

    def _say(self, problem: str) -> None:
        """Log what is wrong, once, and when it is over."""
        if problem and problem != self._said:
            logger.warning("%s", problem)
        if self._said and not problem:
            logger.info("All is well again.")
        self._said = problem


def _last_line(file: Path) -> str:
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4000))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("slurmstepd")), "")


@contextlib.contextmanager
def only_loop(folder: Path, name: str) -> Iterator[None]:
    """Nobody else takes care of the jobs of that name, from the same home. Raises LoopRuns."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"slurm-{name}.lock"
    with open(file, "w", encoding="ascii") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LoopRuns(name, file) from None
        yield
