"""Components that crash are started again by themselves, and models run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from bioengine_server.store.names import SHIPPED_PACKAGES

from tests.compose.engine import Engine
from tests.compose.project import Project
from tests.stack.harness import get, wait_for

pytestmark = pytest.mark.extended


def assert_a_model_runs(project: Project) -> None:
    package = SHIPPED_PACKAGES / "drawn-nuclei"
    with project.client() as client:
        result: dict[str, Any] = client.run("drawn-nuclei", [np.load(package / "test_input.npy")])
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], np.load(package / "test_output.npy"), atol=1e-4)


def init_process(project: Project, service: str) -> psutil.Process:
    return psutil.Process(project.container(service).attrs["State"]["Pid"])


def main_process(project: Project, service: str) -> psutil.Process:
    """The program that the container's init has started."""
    init = init_process(project, service)
    return min(init.children(), key=lambda process: process.create_time())


@pytest.mark.parametrize(
    ("service", "process"),
    [("server", main_process), ("triton", main_process), ("proxy", main_process), ("triton", init_process)],
)
def test_a_container_whose_process_is_killed_comes_back(
    project: Project, service: str, process: Callable[[Project, str], psutil.Process]
) -> None:
    before = project.container(service).attrs["RestartCount"]
    # As a request that was under way leaves it.
    left = "/var/lib/bioengine-tensors/0123456789abcdef0123456789abcdef"
    project.exec("server", "mkdir", "-p", left)
    process(project, service).kill()
    wait_for(lambda: project.container(service).attrs["RestartCount"] > before, 30, "the restart")
    project.wait_until_well()
    if service == "server":
        assert "No such file" in project.exec("server", "ls", left, check=False)
    assert_a_model_runs(project)


def test_readiness_tells_while_triton_is_away(project: Project) -> None:
    triton = project.container("triton")
    triton.stop(timeout=15)
    try:
        wait_for(lambda: get(f"{project.url}/health/readiness")[0] == 503, 30, "not ready")
        assert get(f"{project.url}/health/liveness")[0] == 200
        assert "inference server" in get(f"{project.url}/health/readiness")[1]["reason"]
    finally:
        triton.start()
    project.wait_until_well()
    assert_a_model_runs(project)


def test_a_stuck_triton_is_ended_when_the_server_asks_for_it(project: Project) -> None:
    """As `on_stuck` does it: the server cannot kill what runs in another container."""
    before = project.container("triton").attrs["RestartCount"]
    ask = "from bioengine_server.triton.restart import ask_for_restart as ask; from pathlib import Path; "
    # Frozen: it could not answer a signal that it might handle, nor a request.
    main_process(project, "triton").suspend()
    project.exec("server", "python", "-c", f"{ask} ask(Path('/var/lib/bioengine-link/secret'))")
    wait_for(lambda: project.container("triton").attrs["RestartCount"] > before, 30, "the restart")
    project.wait_until_well()
    assert "because Triton hangs" in project.compose("logs", "triton").stdout.decode()
    assert_a_model_runs(project)


def test_all_comes_back_with_the_engine(project: Project, engine: Engine) -> None:
    engine.restart()
    project.wait_until_well()
    assert_a_model_runs(project)
