"""A cluster of the tests' own: Slurm's controller and two nodes with two GPUs each, on this machine, in a temporary folder.

The GPUs are character devices that are none. Authentication is by a munged of the cluster's own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
NOT_HERE = "Slurm is not here, or cannot be run here"

GRACE = 20  # seconds that a preempted job of the partition `gpu` gets

_CONFIGURATION = """
ClusterName=bioengine-tests
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,requeue_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=64000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=64000 Gres=gpu:2
PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=60 PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 PreemptMode=off
"""
_CARDS = "\n".join(f"NodeName={node} Name=gpu File=/dev/{device}" for node in ("n1", "n2") for device in ("null", "zero"))


class CannotRun(Exception):
    """This machine runs no Slurm."""


class Cluster:
    """Slurm, running until `close`. Raises CannotRun."""

    def __init__(self) -> None:
        if os.getuid() != 0 or not all(map(shutil.which, PROGRAMS)):
            raise CannotRun
        self.folder = Path(tempfile.mkdtemp(prefix="bioengine-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)  # munged wants to know that nobody else writes there
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        try:
            self._configure()
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it with all of its jobs."""
        if len(self._processes) == 4 and all(process.poll() is None for process in self._processes):
            self.run("scancel", "--user=root", check=False)
            deadline = time.monotonic() + 30
            while self.run("squeue", "--noheader", check=False) and time.monotonic() < deadline:
                time.sleep(0.2)
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder)

    def run(self, *command: str, check: bool = True) -> str:
        """A command of Slurm; what it prints."""
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or ran.returncode == 0, f"{' '.join(command)}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout.strip()

    def jobs(self, name: str, *options: str) -> dict[str, list[str]]:
        """State and node of each job of a name, by id; ended ones too."""
        printed = self.run("squeue", "--noheader", "--states=all", "--format=%i %T %N", f"--name={name}", *options)
        return {line.split()[0]: line.split()[1:] for line in printed.splitlines()}

    def alive(self, name: str) -> list[str]:
        """Ids of jobs of a name that wait or run."""
        states = ("PENDING", "CONFIGURING", "RUNNING", "REQUEUED")
        return [job for job, (state, *_) in self.jobs(name).items() if state in states]

    def _configure(self) -> None:
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o600)
        (self.folder / "state").mkdir()
        for node in ("n1", "n2"):
            (self.folder / node).mkdir()
        with socket.socket() as a, socket.socket() as b, socket.socket() as c:
            for each in (a, b, c):
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in (a, b, c)]
        host = socket.gethostname().partition(".")[0]
        text = _CONFIGURATION.format(folder=self.folder, host=host, ports=ports, grace=GRACE)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(_CARDS + "\n")

    def _start(self) -> None:
        own = {key: f"{self.folder}/munge.{key}" for key in ("socket", "pid", "log", "seed", "key")}
        options = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        self._spawn("munged", "--foreground", "--force", *(f"--{option}={own[key]}" for option, key in options.items()))
        self._wait(lambda: Path(own["socket"]).exists())
        self._spawn("slurmctld", "-D", "-c")
        self._wait(lambda: "is UP" in self.run("scontrol", "ping", check=False))
        for node in ("n1", "n2"):
            self._spawn("slurmd", "-D", "-N", node)
        self._wait(lambda: self.run("sinfo", "--noheader", "--partition=gpu", "--format=%T %D", check=False) == "idle 2")

    def _spawn(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}-{command[-1]}.log".replace("/", "-")[-60:], "ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(process)

    def _wait(self, condition) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                for log in self.folder.glob("*.log"):
                    print(log.name, log.read_text(errors="replace")[-2000:])
                raise CannotRun
            time.sleep(0.2)
