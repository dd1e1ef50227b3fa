"""One line of the log for each request of a client, at its end: who, what, how long, and what came of it. No image data.

Clients can be refused as fast as they can send: of requests that fail before they reach the queue, only some have a line.
"""

from __future__ import annotations

import logging
from typing import Any

from bioengine_server.control.callers import CallerNames
from bioengine_server.control.overview import SHOWN_INPUTS
from bioengine_server.dispatch.jobs import Job
from bioengine_server.log_once import Few
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_STAGES = ("queued", "downloading", "converting", "loading", "running")
_MAX_REASON = 600  # characters


class RequestLog:
    """Of one server."""

    def __init__(self, names: CallerNames) -> None:
        """`names`: of its callers."""
        self._names = names
        self._few = Few()

    def write(self, job: Job) -> None:
        """Write the line of a request that has ended; where the log is JSON, with these facts as fields of their own."""
        token = self._names.token(job.caller)
        left_out = self._few.take(f"{job.outcome} {token}") if job.failed_at_once else 0
        if left_out is None:
            return
        client = shown(f"{job.caller.workspace}/{job.caller.client}", 100)
        shapes = [list(shape) for shape in job.shapes[:SHOWN_INPUTS]]
        seconds = {stage: round(job.seconds[stage], 3) for stage in _STAGES if stage in job.seconds}
        facts: dict[str, Any] = {
            **({"task_id": job.task_id} if job.is_admitted else {}),
            "token": token,
            "client": client,
            "model": shown(job.model, 200),
            "shapes": shapes,
            "size": job.size,
            "seconds": round(job.age, 3),
            **{f"{stage}_seconds": value for stage, value in seconds.items()},
            "outcome": job.outcome,
            **({"error": shown(job.reason, _MAX_REASON)} if job.reason else {}),
            **({"left_out": left_out} if left_out else {}),
        }
        spent = f" ({', '.join(f'{stage} {value:.2f}' for stage, value in seconds.items())})" if seconds else ""
        sizes = ", ".join("x".join(map(str, shape)) for shape in shapes) or "no arrays"
        logger.info(
            "%s %s (%s) %s%s: %s%s%s%s",
            job.task_id if job.is_admitted else "refused",
            token or "without token",
            client,
            facts["model"] or "no model",
            f" {sizes}" if job.is_admitted else "",
            shown(job.outcome),
            f" after {facts['seconds']:.2f} s{spent}" if job.is_admitted else "",
            f": {facts['error']}" if job.reason else "",
            f" ({left_out} more like it have no line)" if left_out else "",
            extra={"fields": facts},
        )
