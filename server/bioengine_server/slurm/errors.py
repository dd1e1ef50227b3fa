"""Errors of `bioengine slurm`; each reaches the admin who started it, at the command line or in the log.

server -> figures -> plan -> Slurm -> jobs
   |                          |        |
   |                          |        JobFailed
   |                          UnfitOptions, NoSlurm, SlurmFailed, SlurmRefused, JobRefused, UnreadableSlurm, LoopRuns
   NoTokenFile, ServerAway, WorkerTokenRefused, NoWorkersThere, UnreadableFigures
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bioengine_contract.errors import BioEngineError
from bioengine_contract.version import VERSION

from bioengine_server.untrusted import shown


class SlurmError(BioEngineError):
    """What goes wrong between the loop and Slurm, or the loop and the server."""

    code = "slurm_error"


class NoSlurm(SlurmError):
    code = "no_slurm"

    def __init__(self, program: str) -> None:
        super().__init__(
            f"The program {program} is not here. Run this command where jobs of Slurm are submitted, such as on a login node, "
            "with Slurm's programs on the PATH (on many clusters: module load slurm)."
        )


class SlurmFailed(SlurmError):
    code = "slurm_failed"

    def __init__(self, program: str, said: str) -> None:
        super().__init__(
            f"{program} failed: {shown(said, 300).rstrip('.')}. `sinfo` on this machine says whether Slurm can be reached; it is "
            "asked again."
        )


class SlurmRefused(SlurmFailed):
    """A program of Slurm ended with an error.

    Attributes:
        said: its last words.
    """

    code = "slurm_refused"

    def __init__(self, program: str, said: str) -> None:
        super().__init__(program, said)
        self.said = said


class JobRefused(SlurmError):
    code = "job_refused"

    def __init__(self, options: Sequence[str], said: str) -> None:
        given = f'--sbatch "{shlex.join(options)}"' if options else "no --sbatch options"
        super().__init__(
            f"Slurm refuses the worker's job, with {shown(given, 300)}: {shown(said, 300).rstrip('.')}. Give the options that "
            "sbatch needs here: account (-A), partition (-p), GPUs (--gres), time limit (--time); `sinfo` and `sacctmgr show "
            "associations` list what there is."
        )


class UnfitOptions(SlurmError):
    code = "unfit_options"

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{shown(option)} cannot be in --sbatch: {reason}.")


class UnreadableSlurm(SlurmError):
    code = "unreadable_slurm"

    def __init__(self, program: str, said: str) -> None:
        super().__init__(
            f"{program} printed {shown(repr(said), 200)}, which is not what it prints in Slurm 20.11 and later. Check that it is "
            f"Slurm's own program: `command -v {program}`."
        )


class LoopRuns(SlurmError):
    code = "loop_runs"

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(
            f"Another `bioengine slurm` takes care of the jobs named {shown(name)} (it has locked {file}). Stop it first, or "
            "give this one jobs of its own with --name NAME."
        )


class JobFailed(SlurmError):
    code = "job_failed"

    def __init__(self, job_id: str, state: str, joined: bool, log: str, last_line: str) -> None:
        when = "" if joined else " before its worker had joined the server"
        says = f", which ends with: {shown(last_line, 300)}" if last_line else ""
        found = f"Its log is {shown(log, 300)}{says}" if log else f"`scontrol show job {job_id}` says where its log is"
        super().__init__(f"Job {job_id} ended ({state}){when}. {found}")


class NoTokenFile(SlurmError):
    code = "no_token_file"

    def __init__(self, file: Path | None, reason: str) -> None:
        what = f"The token file {shown(file, 300)} {reason}" if file else "No file with the workers' token was given"
        super().__init__(
            f"{what}. On the server's machine, `./bioengine token create NAME --worker` prints a token; save it in a file that "
            "only you can read, on a file system that the nodes see too, and name that with --token-file or "
            "BIOENGINE_WORKER_TOKEN_FILE."
        )


class ServerAway(SlurmError):
    code = "server_away"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"The server at {shown(url, 300)} does not answer ({shown(reason, 200)}). Jobs are left as they are until it does; "
            "on its machine, `./bioengine status` says how it is."
        )


class WorkerTokenRefused(SlurmError):
    code = "worker_token_refused"

    def __init__(self, url: str, said: str) -> None:
        super().__init__(
            f"The server at {shown(url, 300)} refuses the workers' token: {shown(said, 300).rstrip('.')}. Workers could not join "
            "with it either; create another on the server's machine with `./bioengine token create NAME --worker`, and put it "
            "into the token file, which is read each time."
        )


class NoWorkersThere(SlurmError):
    code = "no_workers_there"

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{shown(url, 300)} has no route /workers. Expected a BioEngine server of version {VERSION}: check the URL, and the "
            "version that its route /health/liveness gives."
        )


class UnreadableFigures(SlurmError):
    code = "unreadable_figures"

    def __init__(self, url: str, said: str) -> None:
        super().__init__(
            f"{shown(url, 300)}/workers did not answer with the figures of its workers: {shown(said, 200)}. Expected a BioEngine "
            "server of this version; check the URL, and what is between it and this machine."
        )
