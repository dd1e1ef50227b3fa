"""`bioengine slurm` as an admin runs it on the tests' cluster, and what became of its jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.stack.harness import ROOT

SCRIPT = ROOT / "deploy" / "slurm" / "worker.sbatch"
STAND_IN = Path(__file__).with_name("stand_in.py")


def stand_in_script(folder: Path) -> Path:
    """The project's job script, with a stand-in for the worker."""
    text = SCRIPT.read_text().replace('exec "$@"', f'shift\nexec "{sys.executable}" "{STAND_IN}" "$@"')
    assert str(STAND_IN) in text
    script = folder / "stand-in.sbatch"
    script.write_text(text)
    return script


class Driver:
    """The command, running until the context ends; its jobs are ended then."""

    def __init__(self, cluster: Cluster, folder: Path, url: str, token_file: Path, name: str, *options: str, **environment: str):
        self.name, self._cluster, self.folder = name, cluster, folder
        self._command = [
            str(ROOT / "bioengine"),
            "slurm",
            url,
            f"--token-file={token_file}",
            f"--name={name}",
            f"--home={folder / 'home'}",
            *options,
        ]
        self._environment = {**cluster.environment, "BIOENGINE_SETTINGS": "", "PYTHONUNBUFFERED": "1", **environment}
        self.log_file = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Driver:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                self.stop()
        finally:
            for job in self.alive:
                self._cluster.run("scancel", job, check=False)
            print(self.log, *(file.read_text() for file in self.folder.glob("bioengine-worker-*.log")), sep="\n", file=sys.stderr)

    def start(self) -> None:
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(30)

    def once(self, *options: str) -> tuple[int, str]:
        """Run the command to its end; its status and what it said."""
        command = [*self._command, *options]
        ran = subprocess.run(
            command, env={**self._environment, "COLUMNS": "400"}, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        return ran.returncode, ran.stdout + ran.stderr

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def jobs(self) -> dict[str, list[str]]:
        return self._cluster.jobs(self.name)

    @property
    def alive(self) -> list[str]:
        return self._cluster.alive(self.name)

    def state(self, job: str) -> str:
        return self.jobs[job][0]


def wait_for(condition, seconds: float, what: str, driver: Driver) -> float:
    """Wait for `condition()`; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s\n{driver.jobs}\n{driver.log}"
        time.sleep(0.25)
    return time.monotonic() - started


def fill(cluster: Cluster, seconds: int, *options: str) -> str:
    """An urgent job, before which those of the partition `gpu` have to give way; its id."""
    command = ["sbatch", "--parsable", "--partition=urgent", "--output=/dev/null", *options, f"--wrap=sleep {seconds}"]
    return cluster.run(*command)


def environment_of(process: int) -> dict[str, str]:
    """Of a process of this machine."""
    entries = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if "=" in entry) if os.path.exists(f"/proc/{process}") else {}
