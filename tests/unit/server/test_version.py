"""The project's version: one, wherever it is told."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from bioengine_contract.version import VERSION
from bioengine_server.cli import app
from bioengine_server.http.health import Health
from bioengine_server.service.readiness import Liveness, Readiness
from starlette.requests import Request
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("distribution", ["contract", "server", "model_runner"])
def test_no_distribution_has_a_version_of_its_own(distribution: str) -> None:
    """What the wheels then have, `tests/stack/test_installed_package.py` looks up."""
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())
    assert "version" not in project["project"] and "version" in project["project"]["dynamic"]
    if distribution == "contract":
        assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bioengine_contract.version.VERSION"}
    else:
        assert "version=version()" in (ROOT / distribution / "setup.py").read_text()


def test_what_the_wheels_read_is_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "deploy"), *sys.path])
    import distribution  # type: ignore[import-not-found]

    assert distribution.version() == VERSION
    assert distribution.contract() == f"bioengine-contract=={VERSION}"
    assert "numpy==1.26.4" in distribution.requirements("model_runner/requirements.txt")


def test_the_newest_part_of_the_changelog_is_the_versions() -> None:
    newest = re.search(r"^## (\S+)(.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == VERSION and re.fullmatch(r"( \(\d{4}-\d\d-\d\d\))?", newest[2])


def test_what_the_docs_show_is_the_version() -> None:
    shown = [
        version
        for page in (ROOT / "docs").glob("*.md")
        for version in re.findall(r"(?:BIOENGINE_TAG=|BioEngine |\$image:)(\d+\.\d+\.\d+)", page.read_text(encoding="utf-8"))
    ]
    assert len(shown) > 3 and {*shown} == {VERSION}


def test_the_command_line_tells_it() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert (told.exit_code, told.stdout) == (0, f"bioengine {VERSION}\n")


async def test_the_health_routes_tell_it() -> None:
    readiness, liveness = Readiness(), Liveness()
    health, request = Health(readiness, liveness, "name", lambda: 2), Request({"type": "http"})
    assert json.loads(bytes((await health.alive(request)).body)) == {"status": "OK", "version": VERSION}
    answer = json.loads(bytes((await health.ready(request)).body))
    assert answer == {"status": "NOT READY", "reason": "the stack is starting", "version": VERSION, "workers": 2}
