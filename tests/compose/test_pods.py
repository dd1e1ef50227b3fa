"""The chart's pods, up to a client's answer (`pods.py` says what podman is to them, and what it is not)."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.store.names import SHIPPED_PACKAGES

from tests.compose.engine import CannotRun, Engine
from tests.compose.pods import SERVER, URL, USER, WORKER, Pods, rendered
from tests.stack.harness import Client, get, wait_for

pytestmark = pytest.mark.extended

DRAWN = SHIPPED_PACKAGES / "drawn-nuclei"
# What only Kubernetes makes something of.
UNTRIED = {"Service", "PodDisruptionBudget", "NetworkPolicy"}


@pytest.fixture(scope="module")
def pods(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """The server's and a worker's pod, running."""
    try:
        pods = Pods()
    except CannotRun:
        pytest.skip("podman is not here")
    with contextlib.closing(pods):
        archive = tmp_path_factory.mktemp("archive") / "images.tar"
        engine.docker("save", f"--output={archive}", f"{SERVER}:local", f"{WORKER}:local")
        pods.load(archive)
        archive.unlink()
        documents = rendered()
        assert {*documents} - UNTRIED == {"Deployment", "PersistentVolumeClaim", "Secret"}
        pods.create(documents)
        pods.start(SERVER)
        pods.start(WORKER)
        try:
            wait_until_served(pods)
        except AssertionError:
            print(pods.logs(), file=sys.stderr)
            raise
        yield pods


def wait_until_served(pods: Pods) -> None:
    """Until the server is ready, by the probe of its pod, and the worker has joined, by that of its own."""
    wait_for(lambda: get(f"{URL}/health/readiness")[0] == 200, 120, "ready")
    wait_for(lambda: has_joined(pods), 120, "joined")


def has_joined(pods: Pods) -> bool:
    deployments = {each["metadata"]["name"]: each for each in rendered()["Deployment"]}
    (worker,) = deployments[WORKER]["spec"]["template"]["spec"]["containers"]
    return pods.exec(WORKER, *worker["readinessProbe"]["exec"]["command"]).returncode == 0


@pytest.fixture(scope="module")
def token(pods: Pods) -> str:
    return pods.exec(SERVER, "bioengine", "token", "create", "ada").stdout.strip()


def assert_a_model_runs(token: str) -> None:
    with Client(URL, token) as client:
        result: dict[str, Any] = client.run("drawn-nuclei", [np.load(DRAWN / "test_input.npy")])
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], np.load(DRAWN / "test_output.npy"), atol=1e-4)


def test_a_model_runs_on_the_worker(pods: Pods, token: str) -> None:
    assert_a_model_runs(token)
    (worker,) = json.loads(pods.exec(SERVER, "bioengine", "workers", "--json").stdout)["workers"]
    assert worker["name"] == WORKER and "drawn-nuclei" in worker["models"], worker


def test_everybody_needs_a_token(pods: Pods) -> None:
    status, said = get(f"{URL}/public/services/triton-client/get_config?model_name=drawn-nuclei")
    assert status == 401, said


def asked(path: str, token: str) -> bytes:
    request = urllib.request.Request(f"{URL}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def test_keda_and_prometheus_get_what_they_ask_for(pods: Pods, token: str) -> None:
    """With the tokens of the Secrets that the chart names to them."""
    (scaled,) = rendered(autoscaling={"enabled": True})["ScaledObject"]
    figures = json.loads(asked("/workers", pods.exec(SERVER, "cat", "/run/secrets/bioengine/token").stdout.strip()))
    for asks in (trigger["metadata"] for trigger in scaled["spec"]["triggers"]):
        assert asks["url"].endswith("/workers") and isinstance(figures[asks["valueLocation"]], int), figures
    assert b"bioengine_ready 1" in asked("/metrics", token)


@pytest.mark.parametrize("deployment", [SERVER, WORKER])
def test_a_pod_runs_without_rights_on_volumes_that_are_not_its_own(pods: Pods, deployment: str) -> None:
    status = pods.exec(deployment, "cat", "/proc/1/status").stdout
    assert f"Uid:\t{USER}\t{USER}" in status and "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    assert "Read-only file system" in pods.exec(deployment, "touch", "/usr/local/bin/new").stderr
    shown = pods.exec(deployment, "stat", "--format=%n %u:%g %a", "/run/bioengine", "/dev/shm", "/var/lib/bioengine").stdout
    home = 2775 if deployment == SERVER else 2777
    assert shown.splitlines() == [
        f"/run/bioengine 0:{USER} 2777",
        f"/dev/shm 0:{USER} 2777",
        f"/var/lib/bioengine 0:{USER} {home}",
    ]
    secret = pods.exec(deployment, "stat", "-L", "--format=%u:%g %a", "/run/secrets/bioengine/token").stdout
    assert secret.strip() == f"0:{USER} 440"


def test_models_are_confined_in_a_pod_too(pods: Pods) -> None:
    log = pods.exec(WORKER, "cat", "/run/bioengine/triton.log").stdout
    assert "Confined by Landlock" in log and "seccomp" in log, log[:2000]


def test_a_worker_drains_when_its_pod_is_to_end_and_the_next_one_joins(pods: Pods, token: str) -> None:
    begun = time.monotonic()
    pods.stop(WORKER, 60)
    state = pods.state(WORKER)
    assert state["ExitCode"] == 0 and not state["OOMKilled"], pods.logs()
    print(f"a worker without work ended within {time.monotonic() - begun:.1f} s")
    assert "No worker has joined" in pods.exec(SERVER, "bioengine", "workers").stdout
    assert get(f"{URL}/health/readiness")[0] == 200, "or nothing would scale it from zero"
    pods.start(WORKER)
    wait_until_served(pods)
    assert_a_model_runs(token)


def test_the_server_s_pod_comes_back_with_its_tokens_and_workers(pods: Pods, token: str) -> None:
    pods.stop(SERVER, 30)
    pods.start(SERVER)
    wait_until_served(pods)
    assert_a_model_runs(token)


def test_files_stay_those_of_the_pod_s_user(pods: Pods) -> None:
    """What kubelet opens to the group at each start is still taken as the user's own."""
    home = Path(pods.podman("volume", "inspect", "--format={{.Mountpoint}}", "bioengine-home").strip())
    for path in home.rglob("*"):
        path.chmod(path.stat().st_mode | (0o2070 if path.is_dir() else 0o060))
    pods.stop(SERVER, 30)
    pods.start(SERVER)
    wait_for(lambda: get(f"{URL}/health/readiness")[0] == 200, 120, "ready")
    assert "All is well" in pods.exec(SERVER, "bioengine", "doctor", "--offline").stdout
