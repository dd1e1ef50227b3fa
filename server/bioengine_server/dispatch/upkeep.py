"""What is done beside requests: models that are always kept are loaded, idle ones unloaded, and what runs for nobody is ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from bioengine_contract.errors import BioEngineError

from bioengine_server.dispatch.jobs import Jobs
from bioengine_server.dispatch.pool import Pool

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks
_NEXT_TRY = 60.0  # seconds after which a model is tried again that could not be loaded


class Upkeep:
    """Of one dispatcher."""

    def __init__(self, jobs: Jobs, pool: Pool, preload: Callable[[str], Awaitable[None]], ids: list[str]) -> None:
        """
        Args:
            jobs: that are under way.
            pool: the workers, with their models.
            preload: has the model of an id loaded, unless it is.
            ids: of models that are always kept.
        """
        self._jobs = jobs
        self._pool = pool
        self._preload = preload
        self._ids = ids
        self._next_try = dict.fromkeys(ids, 0.0)

    async def run(self, interval: float = INTERVAL) -> None:
        """All of it, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._load_kept, interval))
            tasks.create_task(self._repeat(self._pool.tidy, interval))
            tasks.create_task(self._repeat(self._stop_unwanted, interval))

    async def _load_kept(self) -> None:
        for id in self._ids:
            if time.monotonic() < self._next_try[id]:
                continue
            try:
                await self._preload(id)
            except BioEngineError as error:
                logger.warning("BIOENGINE_PRELOAD: %s Trying again in %.0f s", error, _NEXT_TRY)
                self._next_try[id] = time.monotonic() + _NEXT_TRY

    async def _stop_unwanted(self) -> None:
        self._jobs.stop_unwanted()

    async def _repeat(self, work: Callable[[], Awaitable[None]], interval: float) -> None:
        while True:
            try:
                await work()
            except Exception:
                logger.exception("Upkeep failed")
            await asyncio.sleep(interval)
