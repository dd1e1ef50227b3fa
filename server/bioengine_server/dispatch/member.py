"""One worker of the pool: what it carries, and whether requests should go to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from bioengine_contract.operations import Report
from bioengine_contract.version import VERSION

from bioengine_server.dispatch.loaded import LoadedModels
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.workers.link import Link
from bioengine_server.workers.worker import Worker

logger = logging.getLogger(__name__)


class Member:
    """A worker of the pool."""

    def __init__(self, name: str, worker: Worker, models: LoadedModels, places: int, link: Link | None = None) -> None:
        """
        Args:
            name: of the worker; empty: the server's own.
            worker: the worker.
            models: that are loaded there.
            places: requests that it takes before others should go elsewhere.
            link: of a worker that has dialled in.
        """
        self.name = name
        self.worker = worker
        self.models = models
        self.places = places
        self.link = link
        self.carried = 0
        """Requests that are there now."""
        self.recovery: asyncio.Task[None] | None = None
        """Waits for a worker whose Triton does not answer."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when it may have become ready, or is ready no longer."""
        self._was_ready = False
        self._learnt: Report | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests should go there."""
        return self.recovery is None and (self.link is None or self.link.takes_more)

    def describe(self) -> dict[str, Any]:
        """For people and programs: `name` (empty: the server's own), `host`, `version`, `state` (ready, starting or draining),
        `reason` why it is not ready, `places`, `in_flight`, `models`, `cards`, `last_seen` (seconds ago), and memory in bytes."""
        link, report = self.link, None if self.link is None else self.link.report
        state, reason = ("ready", "") if self.is_ready else ("starting", "its Triton is starting again")
        if link is not None and not self.is_ready:
            draining = link.drained or link.leaving
            state, reason = ("draining", "it takes nothing new") if draining else ("starting", link.not_ready or reason)
        held, limit = self.models.held, self.models.limit
        return {
            "name": self.name,
            "host": socket.gethostname() if link is None else link.host,
            "version": VERSION if link is None else link.version,
            "state": state,
            "reason": reason,
            "places": self.places,
            "in_flight": self.carried,
            "models": sorted(model["name"] for model in self.models.status()),
            "cards": [card.model_dump() for card in report.cards] if report else [],
            "memory": {"held": held.host, "limit": limit.host},
            "gpu_memory": {"held": held.cards, "limit": limit.cards},
            "last_seen": 0.0 if link is None else round(time.monotonic() - link.heard, 1),
        }

    @contextlib.contextmanager
    def carrying(self) -> Iterator[None]:
        """A request is there."""
        self.carried += 1
        try:
            yield
        finally:
            self.carried -= 1

    def begin_recovery(self) -> None:
        """Its Triton does not answer: wait for it."""
        if self.recovery is None:
            self.recovery = asyncio.create_task(self._recover())
            self.recovery.add_done_callback(self._end_recovery)

    def on_beat(self) -> None:
        """It has said how it is."""
        report = None if self.link is None else self.link.report
        # Each report once: an old one says of a model that has been loaded or unloaded since what is true no more.
        if report is not None and report is not self._learnt and self.recovery is None:
            self._learnt = report
            self.models.learn(report)
        if self.is_ready != self._was_ready:
            self._was_ready = self.is_ready
            self.on_change()

    async def _recover(self) -> None:
        """Raises TritonUnavailable."""
        await self.worker.wait_until_ready()
        self.models.learn(await self.worker.report())

    def _end_recovery(self, task: asyncio.Task[None]) -> None:
        self.recovery = None
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, TritonUnavailable):
            logger.error("The worker %s does not recover", self.name or "of the server", exc_info=error)
        self.on_change()
