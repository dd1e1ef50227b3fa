"""What an admin does with a set-up: the commands of docs/containers.md, an upgrade, a move to another machine, the end."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypha_rpc.sync import connect_to_server

from tests.clients.test_docs import BLOCK
from tests.compose.engine import DOCKER, Engine
from tests.compose.project import Project
from tests.stack.harness import ROOT, example_input, example_output

pytestmark = pytest.mark.extended


def commands(heading: str) -> list[str]:
    """The blocks of commands in a section of docs/containers.md."""
    section = (ROOT / "docs" / "containers.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [block["code"] for block in BLOCK.finditer(section) if block["language"] == "sh"]


def run_as_printed(project: Project, folder: Path, script: str) -> str:
    """Run commands as an admin does in the checkout; `docker compose` is the one that is installed here."""
    project.write_settings()
    # Where an admin has a terminal.
    script = re.sub(r"compose exec (?!-T)", "compose exec -T ", script)
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    shim = programs / "docker"
    compose = f"exec {shlex.join(project.command)} --project-directory {ROOT} -f {ROOT}/docker-compose.yml"
    shim.write_text(f'#!/bin/sh\n[ "$1" = compose ] && shift && {compose} "$@"\nexec {DOCKER} "$@"\n')
    shim.chmod(0o755)
    environment = project.engine.environment()
    environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    run = subprocess.run(["sh", "-euxc", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture
def moved_project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    """A set-up as on another machine: nothing of the first is there."""
    folder = tmp_path / "moved"
    folder.mkdir()
    project = Project(engine, "bioengine-moved", folder)
    yield project
    project.down()


def token_is_taken(project: Project, token: str) -> bool:
    try:
        server = connect_to_server({"server_url": project.url, "token": token})
    except Exception:
        return False
    try:
        return str(server.config.workspace) == "ws-user-token-ada"
    finally:
        server.disconnect()


def assert_otter_runs(project: Project, packages: Path) -> None:
    with project.client() as client:
        result = client.run("my-model", example_input(packages, "old-otter"))
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], example_output(packages, "old-otter")[0], atol=1e-4)


def test_models_and_tokens_outlive_an_upgrade_and_move_to_another_machine(
    own_project: Project, moved_project: Project, engine: Engine, packages: Path, tmp_path: Path
) -> None:
    first = own_project
    first.up()

    # "Add models", with a package of a user's own.
    shutil.copytree(packages / "old-otter", tmp_path / "package")
    rdf = (tmp_path / "package" / "rdf.yaml").read_text()
    (tmp_path / "package" / "rdf.yaml").write_text(rdf.replace("old-otter", "my-model"))
    shutil.make_archive(str(tmp_path / "my-model"), "zip", tmp_path / "package")
    shutil.copytree(ROOT / "tests" / "triton_models" / "cellpose-like", tmp_path / "cellpose-like")
    own_models, _, own_triton_models = commands("Add models")
    assert "passed" in run_as_printed(first, tmp_path, own_models)
    run_as_printed(first, tmp_path, own_triton_models)
    first.wait_until_well()
    assert_otter_runs(first, packages)
    assert "successfully loaded 'cellpose-like'" in first.compose("logs", "triton").stdout.decode()
    token = first.new_token("ada")
    assert token_is_taken(first, token) and not token_is_taken(first, token[:-8] + "AAAAAAAA")

    # To images of another tag.
    for service in ("server", "triton", "proxy"):
        newer = tmp_path / f"newer-{service}"
        newer.mkdir()
        (newer / "Dockerfile").write_text(f"FROM bioengine-{service}:local\nLABEL version=newer\n")
        engine.docker("build", "--quiet", f"--tag=bioengine-{service}:newer", str(newer))
    authority = first.exec("proxy", "cat", "/data/caddy/pki/authorities/local/root.crt")
    first.settings["BIOENGINE_TAG"] = "newer"
    first.up()
    assert all(first.container(each).image.labels.get("version") == "newer" for each in ("server", "triton", "proxy"))
    assert_otter_runs(first, packages)
    assert token_is_taken(first, token)

    # "Back up and restore", into an empty set-up.
    back_up, restore = commands("Back up and restore")
    run_as_printed(first, tmp_path, back_up)
    assert (tmp_path / "bioengine.tar").stat().st_mode & 0o077 == 0
    first.down()
    assert not first.left()
    run_as_printed(moved_project, tmp_path, restore)
    moved_project.up()
    assert_otter_runs(moved_project, packages)
    assert token_is_taken(moved_project, token)
    assert moved_project.exec("proxy", "cat", "/data/caddy/pki/authorities/local/root.crt") == authority
    assert "successfully loaded 'cellpose-like'" in moved_project.compose("logs", "triton").stdout.decode()


def test_two_set_ups_share_no_secret_and_the_end_leaves_nothing(project: Project, own_project: Project) -> None:
    own_project.up()
    files = ("/var/lib/bioengine-link/secret", "/var/lib/bioengine/secrets/hypha-jwt")
    secrets = [each.exec("server", "cat", file) for each in (project, own_project) for file in files]
    assert len(set(secrets)) == 4
    containers, volumes, networks = 3, 7, 2
    assert len(own_project.left()) == containers + volumes + networks
    own_project.down()
    assert not own_project.left()
    project.wait_until_well()
