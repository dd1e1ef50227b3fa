"""One line of the log for each request of a client, at its end: who, what, how long, and what came of it. No image data."""

from __future__ import annotations

import logging
from typing import Any

from bioengine_server.control.callers import CallerNames
from bioengine_server.control.overview import SHOWN_INPUTS
from bioengine_server.dispatch.jobs import Job
from bioengine_server.untrusted import shown

logger = logging.getLogger(__name__)

_STAGES = ("queued", "downloading", "loading", "running")
_MAX_REASON = 600  # characters


class RequestLog:
    """Of one server."""

    def __init__(self, names: CallerNames) -> None:
        """`names`: of its callers."""
        self._names = names

    def write(self, job: Job) -> None:
        """Write the line of a request that has ended; where the log is JSON, with these facts as fields of their own."""
        client = shown(f"{job.caller.workspace}/{job.caller.client}", 100)
        shapes = [list(shape) for shape in job.shapes[:SHOWN_INPUTS]]
        seconds = {stage: round(job.seconds[stage], 3) for stage in _STAGES if stage in job.seconds}
        facts: dict[str, Any] = {
            "task_id": job.task_id,
            "token": self._names.token(job.caller),
            "client": client,
            "model": shown(job.model, 200),
            "shapes": shapes,
            "size": job.size,
            "seconds": round(job.age, 3),
            **{f"{stage}_seconds": value for stage, value in seconds.items()},
            "outcome": job.outcome,
            **({"error": shown(job.reason, _MAX_REASON)} if job.reason else {}),
        }
        logger.info(
            "%s %s (%s) %s %s: %s after %.2f s%s%s",
            job.task_id,
            facts["token"] or "without token",
            client,
            facts["model"],
            ", ".join("x".join(map(str, shape)) for shape in shapes) or "no arrays",
            shown(job.outcome),
            facts["seconds"],
            f" ({', '.join(f'{stage} {value:.2f}' for stage, value in seconds.items())})" if seconds else "",
            f": {facts['error']}" if job.reason else "",
            extra={"fields": facts},
        )
