"""`docker compose up` gives a server that runs models, by http on this machine and by https."""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bioengine_server.store.names import SHIPPED_PACKAGES

from tests.clients.libraries import call
from tests.compose.project import SERVICES, Project
from tests.stack.harness import ROOT, example_input, example_output, get, wait_for

pytestmark = pytest.mark.extended

DRAWN = SHIPPED_PACKAGES / "drawn-nuclei"


def request() -> dict[str, Any]:
    return {"model_id": "drawn-nuclei", "inputs": [str(DRAWN / "test_input.npy")], "weight_format": "onnx"}


def assert_is_right(report: dict[str, Any]) -> None:
    assert report.get("success"), report
    np.testing.assert_allclose(report["outputs"][0], np.load(DRAWN / "test_output.npy"), atol=1e-4)


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
def test_a_model_runs_through_the_published_port(project: Project, tmp_path: Path, library: str) -> None:
    assert_is_right(call(library, "async", SimpleNamespace(url=project.url), tmp_path, request()))


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
def test_a_model_runs_through_https_with_a_token(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_text(project.exec("proxy", "cat", "/data/caddy/pki/authorities/local/root.crt"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    https = SimpleNamespace(url=project.https_url)
    refused = call(library, "async", https, tmp_path, request())
    assert "needs a token" in str(refused.get("raised")), refused
    name = f"lab-{library}"
    with_token = {**request(), "token": project.new_token(name)}
    assert_is_right(call(library, "async", https, tmp_path, with_token))
    project.exec("server", "bioengine", "token", "revoke", name)
    assert "raised" in call(library, "async", https, tmp_path, with_token)


def test_https_asks_for_a_token_over_http_too(project: Project) -> None:
    config = "/public/services/triton-client/get_config?model_name=drawn-nuclei"
    assert "needs a token" in project.curl(config)
    assert "needs a token" in project.curl("/triton/v2/models/drawn-nuclei/config")
    header = f"Authorization: Bearer {project.new_token('curl')}"
    assert '"dims"' in project.curl(config, "--header", header)
    assert '"dims"' in project.curl("/triton/v2/models/drawn-nuclei/config", "--header", header)


def test_https_takes_clients_that_name_an_address(project: Project) -> None:
    assert '"OK"' in project.curl("/health/readiness", host="127.0.0.1")


@pytest.mark.parametrize("service", SERVICES)
def test_docker_is_told_that_all_is_well(project: Project, service: str) -> None:
    wait_for(lambda: project.health(service) == "healthy", 60, "healthy")


def test_a_package_comes_in_through_standard_input_and_runs(project: Project, packages: Path) -> None:
    package = packages / "old-otter"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for each in package.iterdir():
            file.write(each, each.name)
    said = project.exec("server", "bioengine", "models", "import", "-", stdin=archive.getvalue())
    assert "Imported old-otter" in said
    assert "package.zip" not in project.exec("server", "ls", "-A", "/var/lib/bioengine")
    with project.client() as client:
        result = client.run("old-otter", example_input(packages, "old-otter"))
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], example_output(packages, "old-otter")[0], atol=1e-4)


@pytest.mark.parametrize("service", ["server", "triton"])
def test_both_containers_list_and_show_the_models(project: Project, service: str) -> None:
    assert re.search(
        r"^drawn-nuclei +1\.0\.0 +onnx, torchscript", project.exec(service, "bioengine", "models", "list"), re.MULTILINE
    )
    assert "probability" in project.exec(service, "bioengine", "models", "show", "drawn-nuclei")


def test_models_are_tested_where_they_are_served(project: Project) -> None:
    said = project.exec("triton", "bioengine", "models", "test", "bioengine-probe")
    assert "passed" in said and "the reports are not stored" in said
    elsewhere = project.exec("server", "bioengine", "models", "test", "drawn-nuclei", check=False)
    assert "`docker compose exec triton bioengine models test drawn-nuclei`" in elsewhere
    assert "Traceback" not in said + elsewhere


@pytest.mark.parametrize("command", ["pull affable-shark", "import /tmp", "remove drawn-nuclei", "prune --keep-gb 0"])
def test_triton_s_container_changes_no_models_and_says_where_to(project: Project, command: str) -> None:
    said = project.exec("triton", "bioengine", "models", *command.split(), check=False)
    assert "read-only here" in said and "docker compose exec server bioengine models" in said
    assert "drawn-nuclei" in project.exec("server", "bioengine", "models", "list")


def test_triton_s_container_sends_to_the_server_for_other_commands(project: Project) -> None:
    assert "docker compose exec server bioengine token" in project.exec("triton", "bioengine", "token", check=False)
    assert "lab-of-ada" not in project.exec("server", "bioengine", "token", "list")
    assert project.new_token("lab-of-ada").count(".") == 2
    assert "lab-of-ada" in project.exec("server", "bioengine", "token", "list")


def test_clients_are_told_the_published_address(project: Project) -> None:
    status, config = get(f"{project.url}/public/services/triton-client/get_config?model_name=bioengine-model-runner")
    assert status == 200 and config["server_url"].startswith(project.url), config.get("server_url")


@pytest.mark.parametrize("profile", [(), ("--profile", "lan")])
def test_the_compose_file_is_valid_without_an_engine(profile: tuple[str, ...]) -> None:
    run = subprocess.run(["docker-compose", *profile, "config", "--services"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {"server", "triton", *(["proxy"] if profile else [])} <= set(run.stdout.split())


def test_https_answers_to_its_names_and_to_addresses(project: Project) -> None:
    """What the proxy hands on: the name that it is set up for, any address; no other name, and no stranger's page."""
    assert '"OK"' in project.curl("/health/liveness")
    address = ("--resolve", f"192.0.2.5:{project.https_port}:127.0.0.1")
    assert '"OK"' in project.curl("/health/liveness", *address, host="192.0.2.5")
    assert "BIOENGINE_ALLOW_HOSTS" in project.curl("/health/liveness", "--header", "Host: evil.example")
    assert "BIOENGINE_ALLOW_ORIGINS" in project.curl("/health/liveness", "--header", "Origin: https://evil.example")
    assert '"OK"' in project.curl("/health/liveness", "--header", f"Origin: {project.https_url}")
