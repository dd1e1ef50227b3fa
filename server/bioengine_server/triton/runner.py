"""The model runner in a Triton, kept healthy: operations that survive its repair, and the probe that finds dead instances.

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
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
from bioengine_contract import message
from bioengine_contract.errors import RemoteError
from bioengine_contract.ids import RUNNER
from bioengine_contract.operations import Report

from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import NoAnswer, TritonError, TritonUnavailable

logger = logging.getLogger(__name__)

# How long a request waits for Triton or its model runner to come back before it fails.
RECOVERY = 20.0  # seconds

# How long a replacement may take: 1 to 2 s are usual. On a machine that is busy all the time it takes longer, and another Triton
# would not be faster: after each that was not done in time, the next one may take twice as long.
_REPLACE_TIMEOUT, _LONGEST_REPLACE_TIMEOUT = 6.0, 60.0  # seconds

# Repairs that requests may cause within some seconds: each instance may die at once, one after the other.
_REPAIRS, _REPAIRS_WITHIN = 20, 60.0

# How long a Triton that is there may take to say so. One in a container that has ended may never answer: its name and its
# address are gone, and the system asks for both for half a minute.
_LOOK_TIMEOUT = 10.0  # seconds


_NOT_LOADED = "its model runner cannot be loaded"

# How long an operation may take. Each is short: a load only begins here. What takes longer hangs, and with it an instance.
ANSWERS_WITHIN = 30.0  # seconds


class Watcher:
    """Is told of a model runner's repairs; this one does nothing about them."""

    def on_repair(self, under_way: bool) -> None:
        """A repair has begun, or ended."""

    def on_stuck(self) -> None:
        """Nothing but a new Triton helps."""

    def on_away(self) -> None:
        """Triton does not answer."""


class Runner:
    """The model runner of one Triton."""

    def __init__(self, api: TritonApi, watcher: Watcher) -> None:
        self.api = api
        self._watcher = watcher
        self._repair = asyncio.Lock()
        self._repairs = 0
        self._replace_timeout = _REPLACE_TIMEOUT
        self._caused: deque[float] = deque(maxlen=_REPAIRS)
        self._not_loaded = ""  # why Triton could not load it, as Triton says; empty if it could

    async def ask(self, operation: dict[str, Any]) -> dict[str, Any]:
        """The answer to an operation (`bioengine_contract.operations`), asked once more after a repair where an instance died.

        Raises RequestError, TritonUnavailable.
        """
        repairs = self._repairs
        try:
            return await self._ask(operation)
        except NoAnswer:
            raise  # to ask again would have another instance hang; `watch` finds out
        except TritonUnavailable:
            await self.wait_until_ready()
        except TritonError as error:
            logger.warning("The model runner failed: %.400r", error.text)
            try:
                if error.process_died or await self._has_dead_instances():
                    await self._repair_for_request(repairs)
            except TritonUnavailable:
                await self.wait_until_ready()
        try:
            return await self._ask(operation)
        except TritonError as error:
            raise TritonUnavailable("it failed twice") from error

    async def report(self) -> Report:
        """What lives in this Triton. Raises TritonUnavailable."""
        return Report.model_validate(await self.ask({"operation": "report"}))

    async def _ask(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Raises RequestError, TritonUnavailable, TritonError, NoAnswer."""
        data = np.array([message.encode(operation)], dtype=np.object_)
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                result = await self.api.infer(RUNNER, [("kwargs", data)], ["result"])
        except TimeoutError:
            raise NoAnswer(operation["operation"], ANSWERS_WITHIN) from None
        try:
            answer = message.decode(result.outputs["result"].flat[0])
            if not isinstance(answer, dict):
                raise ValueError(f"a {type(answer).__name__}")
        except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
            raise TritonError(f"it answers with what cannot be read ({error})", 500) from error
        if "error" in answer:
            raise RemoteError(str(answer["error"]), str(answer.get("code", RemoteError.code)))
        return answer

    async def _has_dead_instances(self) -> bool:
        """Whether instances have died, as another one says; also where none can say. Raises TritonUnavailable."""
        try:
            report = Report.model_validate(await self._ask({"operation": "report"}))
        except (RemoteError, ValueError) as error:
            logger.warning("The model runner's report cannot be had: %.400r", str(error))
            return False  # an instance has answered
        except (TritonError, NoAnswer) as error:
            logger.warning("The model runner does not report: %.400r", str(error))
            return True
        if report.dead_instances:
            logger.warning("Instances of the model runner died: %s", ", ".join(report.dead_instances))
        return bool(report.dead_instances)

    async def _repair_for_request(self, seen: int) -> None:
        """`repair`, as often as requests may cause it. Raises TritonUnavailable."""
        if seen == self._repairs and not self._repair.locked():
            now = time.monotonic()
            if len(self._caused) == _REPAIRS and now - self._caused[0] < _REPAIRS_WITHIN:
                raise TritonUnavailable("the model runner has ended repeatedly")
            self._caused.append(now)
        await self.repair(seen)

    async def repair(self, seen: int | None = None) -> None:
        """Replace the model runner's instances, unless that was done since `seen` repairs. Raises TritonUnavailable."""
        async with self._repair:
            if seen is not None and seen != self._repairs:
                return
            logger.warning("Replacing the model runner's instances")
            self._watcher.on_repair(True)
            try:
                async with asyncio.timeout(self._replace_timeout):
                    await self.api.replace_runner()
                self._replace_timeout = _REPLACE_TIMEOUT
            except TimeoutError:
                # Triton waits for ever for an instance that dies while it starts, and answers nobody meanwhile.
                logger.error("The model runner could not be replaced within %.0f s", self._replace_timeout)
                self._replace_timeout = min(2 * self._replace_timeout, _LONGEST_REPLACE_TIMEOUT)
                self._watcher.on_stuck()
                raise TritonUnavailable("the model runner could not be replaced") from None
            except TritonError as error:
                raise TritonUnavailable("the model runner could not be replaced") from error
            finally:
                self._repairs += 1
                self._watcher.on_repair(False)

    async def check(self) -> Report:
        """What lives in this Triton. Dead instances are replaced, and a runner is loaded where there is none.

        Raises TritonUnavailable.
        """
        await self._look()
        repairs = self._repairs
        if await self._has_dead_instances():
            await self.repair(repairs)
        return await self.report()

    async def watch(self, interval: float, learn: Callable[[Report], None]) -> None:
        """`check` every `interval` seconds, until cancelled. `learn`: told each report."""
        while True:
            try:
                learn(await self.check())
            except (TritonUnavailable, RemoteError):
                pass  # Triton itself is down: its supervisor, or its container's, restarts it
            except Exception:
                logger.exception("The check of the model runner failed")
            await asyncio.sleep(interval)

    async def _look(self) -> None:
        """Raises TritonUnavailable."""
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                if await self.api.is_ready(RUNNER):
                    self._not_loaded = ""
                    return
                if await self.api.is_live():
                    # One of its instances has failed to start, and Triton then goes on without all of them.
                    if not self._not_loaded:
                        logger.error("Triton has no model runner; it is told to load it")
                    await self.api.load_runner()
                    self._not_loaded = ""
                    return
        except TimeoutError:
            pass
        except TritonError as error:
            if error.text != self._not_loaded:
                logger.error("Triton cannot load the model runner: %.1000s", error.text)
            self._not_loaded = error.text
            raise TritonUnavailable(_NOT_LOADED) from error
        self._watcher.on_away()
        raise TritonUnavailable("it does not answer")

    async def wait_until_ready(self) -> None:
        """Wait for a Triton that is starting again. Raises TritonUnavailable."""
        try:
            async with asyncio.timeout(RECOVERY):
                while not await self.api.is_ready(RUNNER):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TritonUnavailable(_NOT_LOADED if self._not_loaded else f"it has been down for {RECOVERY:.0f} s") from None
