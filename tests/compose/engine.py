"""A Docker engine of the tests' own: started in a temporary folder, ended leaving nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import docker

PROGRAMS = ("dockerd", "docker-compose", "debootstrap", "caddy", "openssl", "curl", "ip", "unshare")
NOT_HERE = "a Docker engine of its own cannot be run here"

# Debian's, with BuildKit; a newer client that comes first on PATH may want a plugin for it.
DOCKER = next((path for path in ("/usr/bin/docker",) if Path(path).exists()), "docker")


class CannotRun(Exception):
    """This machine runs no engine."""


def check_machine() -> None:
    """Raises CannotRun where something is missing for it."""
    if os.getuid() != 0 or not all(map(shutil.which, PROGRAMS)):
        raise CannotRun


class Engine:
    """dockerd with data, socket and networks of its own."""

    def __init__(self) -> None:
        # Short: a socket's path may have about a hundred characters.
        self.folder = Path(tempfile.mkdtemp(prefix="bioengine-docker-"))
        self.address = f"unix://{self.folder}/socket"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
            self.client = docker.DockerClient(self.address, timeout=180)
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start dockerd; returns when it answers. Raises CannotRun."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    "--storage-driver=overlay2",
                    f"--data-root={self.folder}/data",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/pid",
                    f"--host={self.address}",
                    "--default-address-pool=base=172.30.0.0/16,size=24",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                print((self.folder / "log").read_text(errors="replace")[-3000:])
                raise CannotRun
            time.sleep(0.2)

    def restart(self) -> None:
        """As at a reboot: containers are ended, and started again by their restart policy."""
        self._stop()
        self.start()

    def close(self) -> None:
        """End it with all that it has made; its networks go with the namespace that they are in."""
        if self._process is not None and self._process.poll() is None:
            try:
                for container in self.client.containers.list(all=True):
                    container.remove(force=True)
            finally:
                self._stop()
        for mount in sorted(_mounts_below(self.folder), reverse=True):
            subprocess.run(["umount", "-l", mount])
        shutil.rmtree(self.folder)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """A command of Docker's own client; its output."""
        run = subprocess.run([DOCKER, *arguments], env=self.environment(), capture_output=True, text=True, timeout=600)
        assert not check or run.returncode == 0, f"docker {' '.join(arguments)}:\n{run.stdout}{run.stderr}"
        return run.stdout + run.stderr

    def environment(self) -> dict[str, str]:
        """Where clients find it."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("BIOENGINE_", "DOCKER_", "COMPOSE_", "PIP_"))
        }
        return {**kept, "DOCKER_HOST": self.address, "DOCKER_BUILDKIT": "1"}

    def _stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(docker.DockerClient(self.address, timeout=5).ping())
        except docker.errors.DockerException:
            return False


def _mounts_below(folder: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [mount for mount in mounts if mount.startswith(f"{folder}/")]
