"""Slurm's queue: the loop's own jobs in it, by Slurm's programs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bioengine_server.slurm.errors import JobRefused, NoSlurm, SlurmFailed, SlurmRefused, UnfitOptions, UnreadableSlurm
from bioengine_server.slurm.jobs import FORMAT, Job, read_jobs

_TIMEOUT = 60.0  # seconds; Slurm's programs try for 10 s to reach a controller that is away
# Variables that would change what squeue prints or scancel signals, and those that are the loop's own and not its workers'.
_NOT_FOR_SLURM = ("SQUEUE_", "SCANCEL_", "SLURM_TIME_FORMAT")
_NOT_FOR_WORKERS = ("BIOENGINE_HOME", "BIOENGINE_RUN_DIR", "BIOENGINE_WORKER_NAME")
_NOT_OPTIONS = {
    ("-J", "--job-name"): "the loop finds its jobs by their name; choose it with --name",
    ("-a", "--array"): "the loop submits one job for each worker",
    ("-M", "--clusters"): "the loop looks at one cluster; run it there, or set SLURM_CLUSTERS for it",
    ("-W", "--wait"): "the loop would wait for the end of each job",
    ("-H", "--hold"): "jobs that are held never start",
    ("-h", "--help"): "expected are options of a job",
    ("-V", "--version"): "expected are options of a job",
    ("", "--wrap"): "the job is a script; name your own with --script",
    ("", "--test-only"): "nothing would be submitted; --check does that",
}


def read_options(text: str) -> list[str]:
    """The options for sbatch in the text of --sbatch. Raises UnfitOptions."""
    try:
        options = shlex.split(text)
    except ValueError as error:
        raise UnfitOptions(text, f"{error}; expected options as in a shell, with quotes in pairs".lower()) from None
    if options and not options[0].startswith("-"):
        raise UnfitOptions(options[0], "options begin with - or --, such as --gres=gpu:1")
    for option in options:
        for (short, long), reason in _NOT_OPTIONS.items():
            if option.split("=")[0] == long or (short and re.fullmatch(f"{short}.*", option) and not option.startswith("--")):
                raise UnfitOptions(option, reason)
    return options


class Queue:
    """The jobs of this user that have one name.

    Every method raises NoSlurm if Slurm's programs are missing, SlurmFailed if they fail, and UnreadableSlurm.
    """

    def __init__(self, name: str, options: Sequence[str], script: Path, command: Sequence[str]) -> None:
        """
        Args:
            name: of the jobs.
            options: further options for sbatch.
            script: the job's script.
            command: what the script runs: its arguments.
        """
        self.name = name
        self._options = list(options)
        self._job = ["--job-name", name, str(script), *command]

    def jobs(self) -> list[Job]:
        """All of them, and those that ended in the last minutes (Slurm's MinJobAge)."""
        chosen = ("--states=all", f"--name={self.name}", f"--user={os.getuid()}")
        return read_jobs(_run("squeue", "--noheader", f"--format={FORMAT}", *chosen))

    def submit(self) -> str:
        """Submit a job; its id. Raises JobRefused."""
        try:
            printed = _run("sbatch", "--parsable", *self._options, *self._job)
        except SlurmRefused as error:
            raise JobRefused(self._options, error.said) from None
        job_id = printed.strip().partition(";")[0]  # in a federation, the cluster's name follows
        if not job_id.isdigit():
            raise UnreadableSlurm("sbatch", printed)
        return job_id

    def try_options(self) -> None:
        """Whether Slurm would take such a job. Raises JobRefused."""
        try:
            _run("sbatch", "--test-only", *self._options, *self._job)
        except SlurmRefused as error:
            raise JobRefused(self._options, error.said) from None

    def cancel_waiting(self, job_id: str) -> None:
        """Cancel a job, unless it has begun meanwhile."""
        _run("scancel", "--quiet", "--state=PENDING", job_id)

    def end(self, job_id: str) -> None:
        """SIGTERM for the worker of a running job: it finishes what it has in hand, and ends.

        Without `--batch`, scancel signals the steps of a job alone, not its script, in whose place the worker runs.
        """
        _run("scancel", "--quiet", "--batch", "--signal=TERM", job_id)

    def log_of(self, job_id: str) -> str:
        """Where a job's output goes, as long as Slurm remembers the job; empty otherwise."""
        found = re.search(r"^ *StdOut=(.+)$", _run("scontrol", "show", "job", job_id), re.MULTILINE)
        return found[1] if found else ""


def configuration() -> dict[str, str]:
    """Slurm's configuration, `scontrol show config`. Raises as the methods of `Queue`."""
    pairs = re.findall(r"^(\w+) *= (.*)$", _run("scontrol", "show", "config"), re.MULTILINE)
    if not pairs:
        raise UnreadableSlurm("scontrol", "no settings")
    return {name: value.strip() for name, value in pairs}


def _run(program: str, *arguments: str) -> str:
    """What a program of Slurm prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_SLURM)}
    environment = {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
    if program == "sbatch":  # it hands its environment on to the job
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
    try:
        ran = subprocess.run(
            [program, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
        )
    except FileNotFoundError:
        raise NoSlurm(program) from None
    except subprocess.TimeoutExpired:
        raise SlurmFailed(program, f"no answer within {_TIMEOUT:.0f} s") from None
    except OSError as error:
        raise SlurmFailed(program, error.strerror or str(error)) from None
    if ran.returncode:
        lines = [line.strip() for line in ran.stderr.splitlines() if line.strip() and not line.startswith("Try ")]
        said = lines[-1] if lines else f"status {ran.returncode}, without a word"
        raise SlurmRefused(program, said.removeprefix(f"{program}: ").removeprefix("error: "))
    return ran.stdout
