"""A set-up of the compose file, as an admin starts it, with names, ports and volumes of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker.models.containers

from tests.compose.engine import Engine
from tests.stack.harness import ROOT, Client, free_port, get, wait_for

SERVICES = ("server", "triton", "proxy")


class Project:
    """`docker-compose --profile lan`, driven by the .env file that it is given."""

    def __init__(self, engine: Engine, name: str, folder: Path, **settings: str) -> None:
        self.engine = engine
        self.name = name
        self.port, self.https_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.https_url = f"https://localhost:{self.https_port}"
        self.env_file = folder / ".env"
        self.settings = {
            "BIOENGINE_PORT": str(self.port),
            "BIOENGINE_HTTPS_PORT": str(self.https_port),
            "BIOENGINE_HTTPS_HOST": "127.0.0.1",
            # Nothing here goes to the internet, and little is done at a time.
            "BIOENGINE_OFFLINE": "true",
            "BIOENGINE_CONCURRENCY": "6",
            **settings,
        }

    def compose(self, *arguments: str, check: bool = True, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        self.write_settings()
        run = subprocess.run(
            [*self.command, *arguments], env=self.engine.environment(), cwd=ROOT, input=stdin, capture_output=True, timeout=300
        )
        assert not check or run.returncode == 0, f"{arguments}:\n{run.stdout.decode()}{run.stderr.decode()}"
        return run

    def write_settings(self) -> None:
        self.env_file.write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))

    @property
    def command(self) -> Sequence[str]:
        return ("docker-compose", "--project-name", self.name, "--env-file", str(self.env_file), "--profile", "lan")

    def exec(self, service: str, *arguments: str, check: bool = True, stdin: bytes | None = None) -> str:
        """What a command in a container prints."""
        run = self.compose("exec", "-T", service, *arguments, check=check, stdin=stdin)
        return run.stdout.decode() + run.stderr.decode()

    def new_token(self, name: str, *options: str) -> str:
        """As an admin makes one; stdout has it alone."""
        made = self.compose("exec", "-T", "server", "bioengine", "token", "create", name, *options)
        return made.stdout.decode().strip()

    def up(self, *services: str) -> None:
        self.compose("up", "--detach", *services)
        self.wait_until_well(services or SERVICES)

    def wait_until_well(self, services: Sequence[str] = SERVICES, seconds: float = 120) -> None:
        """Until the server is ready, by https too where the proxy is one of the `services`."""
        try:
            wait_for(lambda: get(f"{self.url}/health/readiness")[0] == 200, seconds, "ready")
            if "proxy" in services:
                wait_for(lambda: '"OK"' in self.curl("/health/readiness"), seconds, "https")
        except AssertionError:
            print(self.logs(), file=sys.stderr)
            raise

    def container(self, service: str) -> docker.models.containers.Container:
        labels = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        (found,) = self.engine.client.containers.list(all=True, filters={"label": labels})
        return found

    def curl(self, path: str, *options: str, host: str = "localhost") -> str:
        """What the proxy answers, whatever its certificate."""
        command = ["curl", "--silent", "--insecure", *options, f"https://{host}:{self.https_port}{path}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout

    def health(self, service: str) -> str:
        return str(self.container(service).attrs["State"]["Health"]["Status"])

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail=60", check=False).stdout.decode(errors="replace")

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans")

    def left(self) -> list[Any]:
        """What the engine still has of it."""
        client, label = self.engine.client, {"label": f"com.docker.compose.project={self.name}"}
        return [
            *client.containers.list(all=True, filters=label),
            *client.volumes.list(filters=label),
            *client.networks.list(filters=label),
        ]

    def client(self) -> Client:
        return Client(self.url)
