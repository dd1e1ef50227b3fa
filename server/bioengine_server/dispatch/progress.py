"""What becomes of a request, told to the caller's own function while it waits for the result."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import Any

from bioengine_server.dispatch.errors import RefusedArgument

logger = logging.getLogger(__name__)

_CALL_TIMEOUT = 10.0  # seconds that one call of the caller's function may take
_LAST_CALLS = 1.0  # seconds that a result waits for the calls before it


class Progress:
    """Calls `callback({"state": "queued" | "downloading" | "converting" | "loading" | "running", ...})`, one after the other.

    The request does not wait for the calls, and does not fail with them: after the first that fails there are no more.
    """

    def __init__(self, callback: Any) -> None:
        """`callback`: a function, plain or async, or None. Raises RefusedArgument."""
        if callback is not None and not callable(callback):
            raise RefusedArgument("progress", f"expected a function, got {type(callback).__name__}.")
        self._callback = callback
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._last: dict[str, Any] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> bool:
        return self._callback is not None

    def tell(self, state: str, **more: Any) -> None:
        """What has become of it; told once."""
        event = {"state": state, **more}
        if self.wanted and event != self._last:
            self._events.put_nowait(event)
            self._last = event

    async def __aenter__(self) -> Progress:
        if self.wanted:
            self._task = asyncio.create_task(self._call())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            # The caller's function is gone once the result is there.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_CALLS):
                    await self._events.join()
            self._task.cancel()

    async def _call(self) -> None:
        failed = False
        while True:
            event = await self._events.get()
            try:
                if not failed:
                    async with asyncio.timeout(_CALL_TIMEOUT):
                        answer = self._callback(event)
                        if inspect.isawaitable(answer):
                            await answer
            except Exception as error:
                failed = True
                logger.debug("A caller's progress function failed (%s: %s)", type(error).__name__, error)
            finally:
                self._events.task_done()
