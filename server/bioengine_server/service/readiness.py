"""Whether the stack is alive and ready; `http/health.py` serves both as health routes.

Ready means: a small bundled model was run through the service, as a client would run it, successfully, within the last minute and
since the last failure; and everything that is needed to load another model exists (`parts`). The probe has a lane of its own
(`dispatch.probe`), so busy models do not delay it, and clients cannot use that lane.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bioengine_contract.ids import RUNNER
from hypha.core.store import RedisStore

from bioengine_server.dispatch.probe import PROBE_MODEL, probe_image, probe_result
from bioengine_server.service.triton_client import SERVICE_ID

logger = logging.getLogger(__name__)

_VALID_FOR = 60.0  # seconds
_PROBE_TIMEOUT = 50.0  # seconds; long, because a machine under full load is busy, not broken

# After this many probes in a row that do not end, Triton is restarted. A new Triton may have to read everything from a slow disk.
_STUCK_AFTER, _STUCK_AT_START = 2, 6


class _Unended(Exception):
    """A probe exceeded its time limit."""


class _PartMissing(Exception):
    """A part that is needed to load further models is missing."""


class Readiness:
    """The outcome of the last probe."""

    def __init__(self, missing: Callable[[], str | None] = lambda: None) -> None:
        """`missing`: returns why no further model can be loaded, even though the probe's model runs; None if they can."""
        self._missing = missing
        self._has_nothing_to_probe: Callable[[], bool] = lambda: False
        self._succeeded: float | None = None
        self._reason = "the stack is starting"
        self._failures = 0
        self._repairing = False
        self._unended, self._until_stuck = 0, _STUCK_AT_START
        self._on_stuck: Callable[[], None] | None = None
        self._test_input, self._test_output = probe_image(), probe_result()
        self.became_ready = asyncio.Event()

    @property
    def reason(self) -> str | None:
        """Why the stack is not ready; None if it is ready."""
        if self._succeeded is None or self._repairing:
            return self._reason
        if time.monotonic() - self._succeeded > _VALID_FOR:
            return f"the last success of the probe is {time.monotonic() - self._succeeded:.0f} s old"
        return None

    def unless(self, has_nothing_to_probe: Callable[[], bool]) -> None:
        """Count as ready without a probe while this is true: no worker is there yet, and requests wait for one."""
        self._has_nothing_to_probe = has_nothing_to_probe

    def when_stuck(self, restart: Callable[[], None]) -> None:
        """Call `restart` if probes neither succeed nor fail: Triton, or the loading of a model, hangs without any other sign."""
        self._on_stuck = restart

    async def watch(self, store: RedisStore, interval: float) -> None:
        """Run the probe every `interval` seconds until cancelled."""
        while True:
            try:
                async with store.get_workspace_interface(store.get_root_user(), "public", client_id="readiness-probe") as api:
                    service = await api.get_service(f"public/{SERVICE_ID}")
                    while True:
                        failures = self._failures
                        try:
                            async with asyncio.timeout(_PROBE_TIMEOUT):
                                if not self._has_nothing_to_probe():
                                    await self._probe(service)
                        except TimeoutError:
                            raise _Unended from None
                        if failures != self._failures:
                            continue  # the probe may have begun, and succeeded, before the failure
                        if missing := await asyncio.to_thread(self._missing):
                            raise _PartMissing(missing)
                        if self.reason is not None:
                            logger.info("Ready")
                        self._succeeded, self._unended, self._until_stuck = time.monotonic(), 0, _STUCK_AFTER
                        self.became_ready.set()
                        await asyncio.sleep(interval)
            except _Unended:
                self.fail(f"the probe did not end within {_PROBE_TIMEOUT:.0f} s")
                self._unended += 1
                if self._unended >= self._until_stuck and self._on_stuck is not None:
                    self._unended, self._until_stuck = 0, _STUCK_AT_START
                    self._on_stuck()
            except Exception as error:
                # The error may come from a Triton that has ended and is being restarted.
                self._unended, self._until_stuck = 0, _STUCK_AT_START
                lines = str(error).strip().splitlines()
                self.fail(lines[-1] if lines else type(error).__name__)
            await asyncio.sleep(min(interval, 1.0))

    async def _probe(self, service: Any) -> None:
        answer = await service.execute(
            inputs=[{"model_id": PROBE_MODEL, "inputs": [self._test_input]}], model_name=RUNNER, serialization="imjoy"
        )
        result = answer["result"]
        if not result.get("success"):
            raise RuntimeError(result.get("error", "the probe model gave no result"))
        if not np.allclose(result["outputs"][0], self._test_output, atol=1e-5):
            raise RuntimeError("the probe model gave a wrong result")

    def repairing(self, under_way: bool) -> None:
        """The model runner is being repaired: the stack is not ready until a probe has succeeded after the repair."""
        self._repairing = under_way
        self.fail("instances of the model runner have died and are being replaced")

    def fail(self, reason: str) -> None:
        """Report the stack as not ready, for `reason`, until a probe succeeds."""
        if self.reason is None or self._reason != reason:
            logger.warning("Not ready: %s", reason)
        self._succeeded, self._reason = None, reason
        self._failures += 1


class Liveness:
    """Whether this process still works, or has to be restarted."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    @property
    def reason(self) -> str | None:
        """Why the process has to be restarted; None if it does not."""
        return "Hypha's manager has stopped answering; the server starts again" if self.lost.is_set() else None
