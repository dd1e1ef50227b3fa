"""The requests that are under way: who asks for what, how far each one is, and how one is cancelled.

    queued -> downloading -> converting -> loading -> running -> done, or an error's code

Some are left out. Where a model's process dies, a request is loading once more after it was running; while there is no worker, it
waits for one. Each request is a `Job`, from its admission to its answer. Whoever wants to know of those that have ended, such as
the metrics and the log of requests, is told at the end. A request that is refused before is a job as well, which ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from bioengine_contract import message
from bioengine_contract.errors import BioEngineError, Fault
from bioengine_contract.model_errors import Cancelled

from bioengine_server.access.caller import Caller
from bioengine_server.access.refusals import mark_known
from bioengine_server.dispatch.errors import CallerGone, NoSuchJob, RefusedArgument
from bioengine_server.dispatch.loaded import Loaded
from bioengine_server.dispatch.progress import Progress

logger = logging.getLogger(__name__)

DONE = "done"

T = TypeVar("T")


class Job:
    """One request."""

    def __init__(self, caller: Caller, model: str, progress: Progress, inputs: Any = None) -> None:
        """
        Args:
            caller: who asks.
            model: the id that was asked for, or the name of another model of Triton.
            progress: tells the caller.
            inputs: arrays, for their shapes and bytes alone.
        """
        self.task_id = str(uuid.uuid4())
        self.caller = caller
        self.model = model
        self.shapes = _shapes(inputs)
        self.size = message.size(inputs)
        """Bytes of the inputs."""
        self.state = "admitted"
        self.details: dict[str, Any] = {}
        """Of the state: `position` and `estimate` in the queue, `bytes` of a download, `tile` of `tiles`."""
        self.started = time.time()
        self.seconds: dict[str, float] = {}
        """Spent in each state so far that has ended."""
        self.outcome = ""
        """When it has ended: "done", or the error's code."""
        self.reason = ""
        """The error's message."""
        self.is_admitted = True
        """False for a request that was refused before the dispatcher had it."""
        self.stopped = asyncio.Event()
        """Set when nobody wants its result any more."""
        self.has_waited = False
        """Whether others were before it in the queue."""
        self.works_on: Loaded | None = None
        """The model whose process has its inputs."""
        self._progress = progress
        self._since = time.monotonic()
        self._cancelled_by = ""

    def tell(self, state: str, **details: Any) -> None:
        """It has come to a state, or further within it."""
        if self.outcome:
            return  # what still runs, and nobody wants
        self._enter(state)
        self.details = details
        self._progress.tell(state, task_id=self.task_id, **details)

    def tile(self, number: int, of: int) -> None:
        """Its model's process works on a tile of its image."""
        self.tell("running", tile=number, tiles=of)

    @contextlib.contextmanager
    def at_work(self, loaded: Loaded) -> Iterator[None]:
        """The process of this model has its inputs."""
        self.works_on = loaded
        try:
            yield
        finally:
            self.works_on = None

    @property
    def tells_progress(self) -> bool:
        """Whether its caller wants to know how far it is."""
        return self._progress.wanted

    def cancel(self, by: str) -> None:
        """Nobody wants the result: `by` is "its caller", "the server's admin", or empty for a caller who has gone."""
        self._cancelled_by = by
        self.stopped.set()

    @property
    def stopped_by(self) -> str:
        """Why nobody wants its result any more, as `ps` shows it; empty while somebody does."""
        if not self.stopped.is_set():
            return ""
        return f"by {self._cancelled_by}" if self._cancelled_by else "its client has disconnected"

    def raise_if_stopped(self) -> None:
        """Raises CallerGone, Cancelled."""
        if not self.stopped.is_set() and not self.caller.connected():
            self.stopped.set()
        if self.stopped.is_set():
            raise Cancelled(self._cancelled_by) if self._cancelled_by else CallerGone(self.caller)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """`await work`, which ends when nobody wants it any more. Raises CallerGone, Cancelled, and what `work` raises."""
        task, stopped = asyncio.create_task(work), asyncio.create_task(self.stopped.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.raise_if_stopped()
            return task.result()
        finally:
            task.cancel()
            stopped.cancel()
            del task  # it would keep what `work` raised, whose traceback has this frame

    def end(self, outcome: str, reason: str = "") -> None:
        """It has ended: with "done", or the code and the message of an error."""
        self._enter("ended")
        self.outcome, self.reason = outcome, reason

    @property
    def failed_at_once(self) -> bool:
        """Whether it has ended with an error and never came as far as the queue."""
        return self.outcome != DONE and "queued" not in self.seconds

    @property
    def age(self) -> float:
        """Seconds since it was admitted."""
        return time.time() - self.started

    def _enter(self, state: str) -> None:
        now = time.monotonic()
        if state != self.state:
            self.seconds[self.state] = self.seconds.get(self.state, 0.0) + now - self._since
            self.state, self._since = state, now


class Jobs:
    """All that are under way in this process."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._on_end: list[Callable[[Job], None]] = []

    def on_end(self, tell: Callable[[Job], None]) -> None:
        """Have `tell` called with each job that has ended, whatever came of it. It must not raise."""
        self._on_end.append(tell)

    def __iter__(self) -> Iterator[Job]:
        """The oldest first."""
        return iter(list(self._jobs.values()))

    @contextlib.contextmanager
    def begun(self, job: Job) -> Iterator[Job]:
        """A job, to its end."""
        self._jobs[job.task_id] = job
        outcome = (DONE, "")
        try:
            yield job
        except BaseException as error:
            outcome = _outcome(error)
            mark_known(error)
            raise
        finally:
            del self._jobs[job.task_id]
            self._tell(job, *outcome)

    def refused(self, error: Exception, caller: Caller, model: str = "") -> None:
        """Tell of a request that was refused before there was a job of it.

        Args:
            error: the reason.
            caller: whose request it was.
            model: the id that was asked for; empty if it is not known.
        """
        job = Job(caller, model, Progress(None))
        job.is_admitted = False
        outcome = (RefusedArgument.code, str(error)) if isinstance(error, TypeError) else _outcome(error)
        self._tell(job, *outcome)

    def _tell(self, job: Job, outcome: str, reason: str) -> None:
        job.end(outcome, reason)
        for tell in self._on_end:
            tell(job)

    def cancel(self, task_id: object, by: str, caller: Caller | None = None) -> None:
        """Cancel one. Raises NoSuchJob.

        Args:
            task_id: which.
            by: whom its caller is told to have done it.
            caller: whose job it must be; None: whoever's.
        """
        job = self._jobs.get(task_id) if isinstance(task_id, str) else None
        if job is None or (caller is not None and not _is_of(job, caller)):
            raise NoSuchJob(task_id)
        logger.info("Cancelled %s of %s, by %s", job.task_id, job.caller, by)
        job.cancel(by)

    def stop_unwanted(self) -> None:
        """Have what is under way for callers who have gone end."""
        for job in self:
            if not job.stopped.is_set() and not job.caller.connected():
                logger.info("%s has gone: %s is ended", job.caller, job.task_id)
                job.cancel("")


def _outcome(error: BaseException) -> tuple[str, str]:
    """The code of an error, and what the log says of it."""
    if isinstance(error, BioEngineError):
        return error.code, str(error)
    if isinstance(error, asyncio.CancelledError):
        return CallerGone.code, "The call ended before there was a result: the client disconnected, or the server is stopping."
    return Fault.code, f"{type(error).__name__}: {error}"


def _is_of(job: Job, caller: Caller) -> bool:
    """Whether it was sent with the same token, or without one over the same connection."""
    if caller.token or job.caller.token:
        return caller.token == job.caller.token
    return (caller.user, caller.workspace, caller.client) == (job.caller.user, job.caller.workspace, job.caller.client)


def _shapes(inputs: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(inputs, Sequence) or isinstance(inputs, (str, bytes)):
        return ()
    return tuple(part.shape for part in inputs if isinstance(part, np.ndarray))
