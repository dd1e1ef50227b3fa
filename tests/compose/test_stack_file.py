"""The example for Docker Swarm, on a swarm of one node: it is taken as it is meant, and docker-compose.yml would not be.

Nothing is started: no image is there. The services are what Swarm has understood of the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose.engine import DOCKER, NOT_HERE, CannotRun, Engine, check_machine
from tests.compose.network import own_network
from tests.stack.harness import ROOT

pytestmark = pytest.mark.extended

FILE = ROOT / "deploy" / "swarm" / "stack.yml"
NAMES = {"BIOENGINE_REGISTRY": "registry.lab", "BIOENGINE_TAG": "1", "BIOENGINE_HTTPS_NAME": "bioengine.lab"}


@pytest.fixture(scope="module")
def swarm() -> Iterator[Engine]:
    """An engine in a network of its own, which is a swarm."""
    with contextlib.ExitStack() as parts:
        try:
            check_machine()
            parts.enter_context(own_network())
            engine = parts.enter_context(contextlib.closing(Engine()))
        except (CannotRun, OSError):
            pytest.skip(NOT_HERE)
        engine.docker("swarm", "init", "--advertise-addr=127.0.0.1")
        yield engine


def deploy(swarm: Engine, file: Path, name: str, **names: str) -> subprocess.CompletedProcess[str]:
    command = [DOCKER, "stack", "deploy", "--compose-file", str(file), name]
    for _ in range(5):
        run = subprocess.run(command, env={**swarm.environment(), **names}, capture_output=True, text=True, timeout=60)
        if not (run.returncode and "network" in run.stderr and "not found" in run.stderr):
            break
        time.sleep(1)  # Swarm has not yet heard of the network that the same command has just made
    return run


@pytest.fixture(scope="module")
def services(swarm: Engine) -> dict[str, dict[str, Any]]:
    """The services of the example, as Swarm has them."""
    secret = [DOCKER, "secret", "create", "worker-token", "-"]
    subprocess.run(secret, env=swarm.environment(), input=b"x" * 40, check=True, capture_output=True)
    run = deploy(swarm, FILE, "lab", **NAMES)
    assert run.returncode == 0 and "ignoring" not in run.stderr.lower(), run.stderr
    found = json.loads(swarm.docker("service", "inspect", "lab_server", "lab_worker", "lab_proxy"))
    return {service["Spec"]["Name"].removeprefix("lab_"): service["Spec"] for service in found}


def test_only_the_proxy_is_published_and_on_its_own_node_alone(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service.get("EndpointSpec", {}).get("Ports", []) for name, service in services.items()}
    assert not published["server"] and not published["worker"]
    assert [(port["PublishedPort"], port["PublishMode"]) for port in published["proxy"]] == [(443, "host")]


def test_services_have_no_rights_and_write_to_their_own_folders(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        container = service["TaskTemplate"]["ContainerSpec"]
        assert container["ReadOnly"] and container["Init"] and container["CapabilityDrop"] == ["ALL"], name
        assert {"/tmp"} < {mount["Target"] for mount in container["Mounts"]}
    for name in ("server", "worker"):
        container = services[name]["TaskTemplate"]["ContainerSpec"]
        sizes = {mount["Target"]: mount["TmpfsOptions"]["SizeBytes"] for mount in container["Mounts"] if mount["Type"] == "tmpfs"}
        assert sizes["/dev/shm"] >= 2 << 30, "Docker's own 64 MB are too few"


def test_the_token_is_a_file_of_the_container_s_user(services: dict[str, dict[str, Any]]) -> None:
    for name in ("server", "worker"):
        container = services[name]["TaskTemplate"]["ContainerSpec"]
        (secret,) = container["Secrets"]
        assert secret["File"] == {"Name": "worker-token", "UID": "10001", "GID": "10001", "Mode": 0o400}
        assert "BIOENGINE_WORKER_TOKEN_FILE=/run/secrets/worker-token" in container["Env"]
    assert "Secrets" not in services["proxy"]["TaskTemplate"]["ContainerSpec"]


def test_there_is_never_a_second_server_and_everybody_needs_a_token(services: dict[str, dict[str, Any]]) -> None:
    server = services["server"]
    assert server["Mode"] == {"Replicated": {"Replicas": 1}} and server["UpdateConfig"]["Order"] == "stop-first"
    assert {"BIOENGINE_HOST=0.0.0.0", "BIOENGINE_TRITON=workers"} <= {*server["TaskTemplate"]["ContainerSpec"]["Env"]}
    worker = services["worker"]["TaskTemplate"]["ContainerSpec"]
    assert worker["StopGracePeriod"] == 600 * 10**9 and worker["Hostname"] == "{{.Node.Hostname}}"


def test_it_asks_for_what_it_needs() -> None:
    given = {key: value for key, value in NAMES.items() if key != "BIOENGINE_REGISTRY"}
    command = ["docker-compose", "-f", str(FILE), "config", "--quiet"]
    run = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True)
    assert run.returncode != 0 and "the registry that all nodes reach" in run.stderr


def test_the_compose_file_is_refused_and_would_open_its_port_to_all(swarm: Engine, tmp_path: Path) -> None:
    """What docs/kubernetes.md says of it."""
    refused = deploy(swarm, ROOT / "docker-compose.yml", "refused")
    assert refused.returncode != 0 and "unsupported options" in refused.stderr and "mem_limit" in refused.stderr
    lessened = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    del lessened["services"]["proxy"]  # its port is the example's already
    for service in lessened["services"].values():
        for key in ("mem_limit", "runtime", "dns_opt", "profiles"):
            service.pop(key, None)
    (tmp_path / "compose.yml").write_text(yaml.safe_dump({**lessened, "version": "3.8"}))
    run = deploy(swarm, tmp_path / "compose.yml", "open")
    assert "ignoring IP-address (127.0.0.1:9520:9520/tcp) service will listen on '0.0.0.0'" in run.stderr, run.stderr
    assert run.returncode == 0, run.stderr
    assert "Ignoring unsupported options:" in run.stderr and "shm_size" in run.stderr and "security_opt" in run.stderr
    container = json.loads(swarm.docker("service", "inspect", "open_triton"))[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert "tmpfs" not in {mount["Type"] for mount in container["Mounts"]}, "no folder to write to"
