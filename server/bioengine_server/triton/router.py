"""The router, kept well: requests that survive its repair, and the probe that finds dead instances.

Triton neither restarts a dead instance of a Python model nor says that it is dead; requests that meet it fail. The
repair is to replace all instances (1 to 2 s); those that live go on answering meanwhile.

Nobody else's request causes a repair unless an instance is dead: what Triton says of a request that is wrong (4xx) is that
request's error, and another failure is looked into first. Requests cause so many repairs a minute; `watch` goes on after that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any

from bioengine_server.errors import TritonUnavailable
from bioengine_server.triton.api import ROUTER, InferOptions, TritonApi, TritonError

logger = logging.getLogger(__name__)

# How long a request waits for Triton or the router to come back before it fails.
RECOVERY = 20.0  # seconds

_REPLACE_TIMEOUT = 6.0  # seconds; 1 to 2 are usual

# Repairs that requests may cause within some seconds: each of the 16 instances may die at once, one after the other.
_REPAIRS, _REPAIRS_WITHIN = 20, 60.0

# How long a Triton that is there may take to say so. One in a container that has ended may never answer: its name and its
# address are gone, and the system asks for both for half a minute.
_LOOK_TIMEOUT = 10.0  # seconds


class Watcher:
    """Is told of a router's repairs; this one does nothing about them."""

    def on_repair(self, under_way: bool) -> None:
        """A repair has begun, or ended."""

    def on_stuck(self) -> None:
        """Nothing but a new Triton helps."""

    def on_away(self) -> None:
        """Triton does not answer."""


class Router:
    """The router of one Triton."""

    def __init__(self, api: TritonApi, watcher: Watcher) -> None:
        self.api = api
        self._watcher = watcher
        self._repair = asyncio.Lock()
        self._repairs = 0
        self._caused: deque[float] = deque(maxlen=_REPAIRS)

    async def ask(self, request: dict[str, Any], options: InferOptions = InferOptions()) -> tuple[dict[str, Any], dict[str, Any]]:
        """`TritonApi.ask_router`, once more after a repair where an instance, or Triton, died.

        A request may thus be worked on twice; inference changes nothing, so the answer is the same.

        Raises TritonUnavailable; TritonError for a request that Triton finds wrong.
        """
        repairs = self._repairs
        try:
            return await self.api.ask_router(request, options)
        except TritonUnavailable:
            await self._wait_until_ready()
        except TritonError as error:
            if error.is_of_request:
                raise
            logger.warning("The router failed: %.400r", str(error))
            try:
                if error.process_died or await self._has_dead_instances():
                    await self._repair_for_request(repairs)
            except TritonUnavailable:
                await self._wait_until_ready()
        try:
            return await self.api.ask_router(request, options)
        except TritonError as error:
            raise TritonUnavailable("it failed twice") from error

    async def _has_dead_instances(self) -> bool:
        """Whether instances have died, as another one says; also where none can say. Raises TritonUnavailable."""
        try:
            status, _ = await self.api.ask_router({"operation": "status"})
        except TritonError as error:
            logger.warning("The router does not tell its status: %.400r", str(error))
            return True
        if dead := status.get("dead_routers"):
            logger.warning("Router instances died: %s", ", ".join(dead))
        return bool(dead)

    async def _repair_for_request(self, seen: int) -> None:
        """`repair`, as often as requests may cause it. Raises TritonUnavailable."""
        if seen == self._repairs and not self._repair.locked():
            now = time.monotonic()
            if len(self._caused) == _REPAIRS and now - self._caused[0] < _REPAIRS_WITHIN:
                raise TritonUnavailable("the model runner has ended repeatedly")
            self._caused.append(now)
        await self.repair(seen)

    async def repair(self, seen: int | None = None) -> None:
        """Replace the router's instances, unless that was done since `seen` repairs. Raises TritonUnavailable."""
        async with self._repair:
            if seen is not None and seen != self._repairs:
                return
            logger.warning("Replacing the router's instances")
            self._watcher.on_repair(True)
            try:
                async with asyncio.timeout(_REPLACE_TIMEOUT):
                    await self.api.replace_router()
            except TimeoutError:
                # Triton waits for ever for an instance that dies while it starts, and answers nobody meanwhile.
                logger.error("The router could not be replaced within %.0f s", _REPLACE_TIMEOUT)
                self._watcher.on_stuck()
                raise TritonUnavailable("the model runner could not be replaced") from None
            except TritonError as error:
                raise TritonUnavailable("the model runner could not be replaced") from error
            finally:
                self._repairs += 1
                self._watcher.on_repair(False)

    async def check(self) -> None:
        """Look for dead instances and repair them; have a router loaded where there is none. Raises TritonUnavailable."""
        await self._look()
        repairs = self._repairs
        if await self._has_dead_instances():
            await self.repair(repairs)

    async def watch(self, interval: float) -> None:
        """`check` every `interval` seconds, until cancelled."""
        while True:
            try:
                await self.check()
            except TritonUnavailable:
                pass  # Triton itself is down: its supervisor, or its container's, restarts it
            except Exception:
                logger.exception("The router's check failed")
            await asyncio.sleep(interval)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                if await self.api.is_ready(ROUTER):
                    return
                if await self.api.is_live():
                    # One of its instances has failed to start, and Triton then goes on without all of them.
                    logger.error("Triton has no router; it is told to load it")
                    await self.api.load_router()
                    return
        except TimeoutError:
            pass
        except TritonError as error:
            raise TritonUnavailable("the model runner could not be loaded") from error
        self._watcher.on_away()
        raise TritonUnavailable("it does not answer")

    async def _wait_until_ready(self) -> None:
        try:
            async with asyncio.timeout(RECOVERY):
                while not await self.api.is_ready(ROUTER):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TritonUnavailable(f"it has been down for {RECOVERY:.0f} s") from None
