"""What processes in the containers cannot do, and which secrets nobody can read there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.compose.engine import Engine
from tests.compose.network import INTERNET
from tests.compose.project import SERVICES, Project
from tests.compose.test_recovery import assert_a_model_runs, init_process, main_process
from tests.stack.harness import ROOT, wait_for

pytestmark = pytest.mark.extended


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_runs_as_root(project: Project, service: str) -> None:
    processes = project.container(service).top(ps_args="-eo pid,uid")["Processes"]
    assert processes and {uid for _, uid in processes} == {"10001"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_rights_and_a_fixed_file_system(project: Project, service: str) -> None:
    settings = project.container(service).attrs["HostConfig"]
    assert settings["ReadonlyRootfs"] and settings["CapDrop"] == ["ALL"] and not settings["CapAdd"]
    assert "no-new-privileges:true" in settings["SecurityOpt"] and not settings["Privileged"]
    assert settings["RestartPolicy"]["Name"] == "unless-stopped"
    assert "Read-only file system" in project.exec(service, "touch", "/usr/local/bin/new", check=False)
    assert "CapEff:\t0000000000000000" in project.exec(service, "cat", "/proc/self/status")


def test_only_the_server_and_the_proxy_are_reached_from_outside(project: Project) -> None:
    published = {
        service: [
            (binding["HostIp"], binding["HostPort"])
            for bindings in project.container(service).attrs["NetworkSettings"]["Ports"].values()
            for binding in bindings or ()
        ]
        for service in SERVICES
    }
    assert published == {
        "server": [("127.0.0.1", str(project.port))],
        "proxy": [("127.0.0.1", str(project.https_port))],
        "triton": [],
    }


def test_without_settings_https_alone_is_for_the_network(project: Project) -> None:
    config = subprocess.run(["docker-compose", "--profile", "lan", "config"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "127.0.0.1:9520:9520" in config and "0.0.0.0:443:8443" in config


def test_triton_has_no_way_to_the_internet_and_no_names_of_it(project: Project) -> None:
    connect = f"import socket; socket.create_connection(('{INTERNET}', 80), 5); print('connected')"
    assert "connected" in project.exec("server", "python", "-c", connect)
    assert "TimeoutError" in project.exec("triton", "python", "-c", connect, check=False)
    look_up = "import socket; print(socket.gethostbyname('bioimage.io'))"
    assert "gaierror" in project.exec("triton", "python", "-c", look_up, check=False)


def log_of_triton(project: Project) -> str:
    return project.compose("logs", "triton").stdout.decode()


def test_triton_is_confined(project: Project) -> None:
    assert re.search(r"Confined by Landlock \d+ and seccomp\.", log_of_triton(project))
    filters = [
        int(re.findall(r"^Seccomp_filters:\t(\d+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)[0])
        for process in (init_process(project, "triton"), main_process(project, "triton"))
    ]
    assert filters == [1, 2], "Docker's own, and ours"


def test_the_doctor_examines_the_server_s_container(project: Project) -> None:
    said = " ".join(project.exec("server", "bioengine", "doctor", "--offline").split())
    assert "its log says what confines it" in said and "docker compose logs triton" in said
    assert "All is well." in said


def test_an_engine_that_forbids_landlock(own_project: Project, tmp_path: Path) -> None:
    """As older ones do, whose seccomp profile does not know it: models run without, and the log says what they can do then."""
    calls = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO"}]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    older = {"services": {"triton": {"security_opt": [f"seccomp:{tmp_path / 'profile.json'}"]}}}
    (tmp_path / "older.json").write_text(json.dumps(older))
    own_project.settings["COMPOSE_FILE"] = f"{ROOT / 'docker-compose.yml'}:{tmp_path / 'older.json'}"
    own_project.up("server", "triton")
    assert "Confined by seccomp. Models can still read and write all files" in log_of_triton(own_project)
    assert_a_model_runs(own_project)
    own_project.settings["BIOENGINE_CONFINE"] = "require"
    own_project.compose("up", "--detach", "triton")
    wait_for(lambda: "BIOENGINE_CONFINE=require" in log_of_triton(own_project), 30, "the reason why it does not start")


def test_large_images_are_computed(project: Project) -> None:
    """Large enough to go through the volume in memory, and to be cut into tiles."""
    with project.client() as client:
        result = client.run("drawn-nuclei", [np.zeros((1, 1, 1024, 1024), np.float32)])
    assert result["success"], result


@pytest.mark.parametrize(("host", "answer"), [("localhost", 401), ("127.0.0.1", 401), ("server", 421)])
def test_what_models_run_needs_a_token_of_the_server(project: Project, host: str, answer: int) -> None:
    """It reaches the server within the containers' network, and is not a program on the machine, whatever it calls the server."""
    url = f"http://server:{project.port}/public/services/triton-client/get_config?model_name=drawn-nuclei"
    request = f"urllib.request.Request('{url}', headers={{'Host': '{host}:{project.port}'}})"
    ask = f"import urllib.request; print(urllib.request.urlopen({request}, timeout=10).status)"
    assert f"HTTP Error {answer}" in project.exec("triton", "python", "-c", ask, check=False)


@pytest.mark.parametrize("folder", ["bioengine/models", "bioengine/triton-models", "bioengine-link"])
def test_triton_cannot_write_what_the_server_keeps(project: Project, folder: str) -> None:
    assert "Read-only file system" in project.exec("triton", "touch", f"/var/lib/{folder}/new", check=False)


def test_large_images_go_through_memory(project: Project) -> None:
    for service in ("server", "triton"):
        assert "tmpfs /var/lib/bioengine-tensors tmpfs rw" in project.exec(service, "cat", "/proc/mounts")
    assert project.exec("server", "printenv", "BIOENGINE_SHARED_TENSORS").strip() == "/var/lib/bioengine-tensors"


def test_triton_does_not_see_the_server_s_secrets(project: Project) -> None:
    assert "No such file" in project.exec("triton", "ls", "/var/lib/bioengine/secrets", check=False)


def test_no_secret_is_in_an_image_or_in_the_engine_s_own_records(project: Project, engine: Engine) -> None:
    secrets = [
        project.exec("server", "cat", file).strip()
        for file in ("/var/lib/bioengine-link/secret", "/var/lib/bioengine/secrets/hypha-jwt")
    ]
    assert all(len(secret) >= 32 for secret in secrets) and len(set(secrets)) == 2
    records = project.compose("config").stdout.decode()
    for service in SERVICES:
        image = f"bioengine-{service}:local"
        records += json.dumps(project.container(service).attrs) + json.dumps(engine.client.images.get(image).attrs)
        records += engine.docker("history", "--no-trunc", image)
    assert not any(secret in records for secret in secrets)
    # Nothing that could be one has a value in the set-up itself.
    for line in project.compose("config").stdout.decode().splitlines():
        name, _, value = line.strip().partition(": ")
        if any(word in name for word in ("SECRET", "PASSWORD", "TOKEN")) and value not in ("", "null", "''"):
            assert name == "BIOENGINE_TRITON_SECRET_FILE" and value.startswith("/var/lib/bioengine-link/")


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_no_file_where_secrets_and_models_go(engine: Engine, service: str) -> None:
    folders = "/data /config" if service == "proxy" else "/var/lib/bioengine /var/lib/bioengine-link"
    found = engine.client.containers.run(f"bioengine-{service}:local", f"find {folders} -type f", network="none", remove=True)
    assert found == b""
