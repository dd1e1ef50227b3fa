"""The name of a worker."""

from __future__ import annotations

import os
import re
import socket

from bioengine_server.settings import Settings

_OTHERS = re.compile(r"[^A-Za-z0-9._-]+")
_MAX = 60


def name_of(settings: Settings) -> str:
    """The one in the settings; otherwise the machine's, in a Slurm job with the job's number."""
    if settings.worker_name:
        return settings.worker_name
    job = os.environ.get("SLURM_JOB_ID", "")
    host = _OTHERS.sub("-", socket.gethostname().split(".")[0]).strip("-._") or "worker"
    end = f"-{_OTHERS.sub('-', job)}" if job else ""
    return f"{host[: _MAX - len(end)]}{end}"
