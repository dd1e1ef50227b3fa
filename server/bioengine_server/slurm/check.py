"""What an admin of a cluster must have set: each finding is a sentence."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bioengine_contract.errors import BioEngineError

from bioengine_server.network.peers import is_loopback
from bioengine_server.slurm.errors import NoSlurm
from bioengine_server.slurm.queue import Queue, configuration
from bioengine_server.slurm.server import Server

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")

Finding = tuple[bool | None, str]
"""Whether it is as it should be (None: it works, but), and a sentence."""


def check(server: Server, queue: Queue, token_file: Path | None) -> Iterator[Finding]:
    """Look at Slurm, the job's options and the server, as far as each lets itself be looked at."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        yield False, str(NoSlurm(missing[0]))
    else:
        yield from _slurm(queue)
    yield from _server(server)
    if token_file is not None and token_file.is_file() and token_file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield None, f"Others may read the token file {token_file}, and let workers of theirs join: chmod 600 {token_file}"


def _slurm(queue: Queue) -> Iterator[Finding]:
    try:
        settings = configuration()
        jobs = [job for job in queue.jobs() if not job.ended]
    except BioEngineError as error:
        yield False, str(error)
        return
    version = settings.get("SLURM_VERSION", "of an unknown version")
    yield True, f"Slurm {version} answers; {len(jobs)} jobs of yours have the name {queue.name}."
    try:
        queue.try_options()
        yield True, "Slurm takes the worker's job."
    except BioEngineError as error:
        yield False, str(error)
    yield _preemption(settings)
    for job in jobs:
        if job.stuck:
            yield None, f"Job {job.id} waits for something that does not come by itself: {job.reason} (squeue(1))."


def _preemption(settings: dict[str, str]) -> Finding:
    """Without that parameter, a job that is preempted is killed after its grace time without its script having had a signal."""
    mode, parameters = settings.get("PreemptMode", "OFF"), settings.get("SlurmctldParameters", "")
    if settings.get("PreemptType", "(null)") in ("(null)", "preempt/none") or mode == "OFF":
        return True, "Jobs are not preempted here."
    if "preempt_send_user_signal" in parameters.split(","):
        return True, f"Jobs may be preempted (PreemptMode={mode}); workers get their signal at the beginning of the grace time."
    return (
        None,
        f"Jobs may be preempted (PreemptMode={mode}), and workers get no signal in time: what they have in hand is killed "
        "with them, and run again elsewhere. Slurm's admin sets SlurmctldParameters=preempt_send_user_signal in slurm.conf, and "
        "a GraceTime of the partition or QOS of a minute or more.",
    )


def _server(server: Server) -> Iterator[Finding]:
    if is_loopback(urlsplit(server.url).hostname or ""):
        yield None, f"{server.url} is an address of this machine alone, which other nodes cannot reach. Give the server's name."
    try:
        figures = server.figures()
    except BioEngineError as error:
        yield False, str(error)
        return
    yield True, f"The server answers, and takes the workers' token; {len(figures.workers)} workers have joined."
