"""A worker on another machine, by the compose file: it reaches the server by https alone, and computes for it."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bioengine_server.store.names import SHIPPED_PACKAGES

from tests.compose.engine import Engine
from tests.compose.project import Project
from tests.stack.harness import ROOT, Client, wait_for

pytestmark = pytest.mark.extended

NAME = "bioengine.lab"
DRAWN = SHIPPED_PACKAGES / "drawn-nuclei"


_NUMBERS = itertools.count(1)


class Server(Project):
    """A server without a Triton, and the proxy."""

    SERVICES = ("server", "proxy")

    def __init__(self, engine: Engine, folder: Path) -> None:
        # The lab's network and its name service are the network of the server's own proxy.
        override = folder / "override.json"
        override.write_text(json.dumps({"services": {"proxy": {"networks": {"front": {"aliases": [NAME]}}}}}))
        files = f"{ROOT / 'docker-compose.yml'}:{override}"
        settings = {"BIOENGINE_TRITON": "workers", "BIOENGINE_HTTPS_NAME": NAME, "COMPOSE_FILE": files}
        super().__init__(engine, "bioengine-lab", folder, **settings)

    def curl(self, path: str, *options: str, host: str = NAME) -> str:
        return super().curl(path, "--resolve", f"{NAME}:{self.https_port}:127.0.0.1", *options, host=host)

    def workers(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.exec("server", "bioengine", "workers", "--json"))["workers"]
        return found


class Box(Project):
    """Another machine, on which there is a worker and nothing else."""

    def __init__(self, engine: Engine, folder: Path, server: Server, name: str) -> None:
        super().__init__(engine, f"bioengine-{name}", folder, BIOENGINE_WORKER_NAME=name)
        token, authority, override = folder / "worker.token", folder / "ca.crt", folder / "override.json"
        token.write_text(server.new_token(name, "--worker"))
        authority.write_text(server.exec("proxy", "cat", "/data/caddy/pki/authorities/local/root.crt"))
        for file in (token, authority):
            os.chown(file, 10001, 10001)
            file.chmod(0o600)
        override.write_text(json.dumps({"networks": {"front": {"external": True, "name": f"{server.name}_front"}}}))
        self.settings |= {
            "BIOENGINE_SERVER_URL": f"https://{NAME}:8443",
            "BIOENGINE_WORKER_TOKEN_FILE": str(token),
            "BIOENGINE_CA_FILE": str(authority),
            "COMPOSE_FILE": f"{ROOT / 'docker-compose.yml'}:{override}",
        }


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(engine, tmp_path_factory.mktemp("lab"))
    server.up(*Server.SERVICES)
    yield server
    server.down()
    assert not server.left()


@pytest.fixture
def box(engine: Engine, tmp_path: Path, server: Server) -> Iterator[Box]:
    box = Box(engine, tmp_path, server, f"gpu-box-{next(_NUMBERS)}")  # a token of its own, which needs a name of its own
    yield box
    box.down()
    assert not box.left()


def test_one_command_makes_a_second_box_compute(box: Box, server: Server) -> None:
    assert server.workers() == []
    box.compose("up", "--detach", "worker")
    try:
        wait_for(lambda: box.health("worker") == "healthy", 120, "healthy: it has joined")
    except AssertionError:
        print(box.logs(), file=sys.stderr)
        raise
    assert len(box.engine.client.containers.list(filters={"label": f"com.docker.compose.project={box.name}"})) == 1
    assert [each["name"] for each in server.workers()] == [box.settings["BIOENGINE_WORKER_NAME"]]
    with Client(server.url) as client:
        result = client.run("drawn-nuclei", [np.load(DRAWN / "test_input.npy")])
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], np.load(DRAWN / "test_output.npy"), atol=1e-4)
    assert not any(box.container("worker").attrs["NetworkSettings"]["Ports"].values()), "no open port"

    box.compose("stop", "worker")
    assert box.container("worker").attrs["State"]["ExitCode"] == 0, box.logs()
    assert server.workers() == []


def test_a_worker_with_another_s_token_says_so_and_does_not_join(box: Box, server: Server, tmp_path: Path) -> None:
    (tmp_path / "worker.token").write_text(server.new_token("ada"))
    box.compose("up", "--detach", "worker")
    wait_for(lambda: "token" in box.logs(), 60, "the reason")
    assert "Traceback" not in box.logs() and server.workers() == []


def test_a_worker_has_no_rights_either(box: Box) -> None:
    box.compose("up", "--detach", "worker")
    settings = box.container("worker").attrs["HostConfig"]
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"] and not settings["Privileged"]
    assert "no-new-privileges:true" in settings["SecurityOpt"] and not settings["PortBindings"]
    assert box.exec("worker", "id", "-u").strip() == "10001"
