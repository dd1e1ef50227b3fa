"""Environments that the admin adds and removes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from bioengine_server.cli import app
from bioengine_server.commands import environments
from typer.testing import CliRunner

from tests.unit.server.test_environments import Setup, deploy, setup

__all__ = ["deploy", "setup"]


def test_an_optional_environment_is_built_when_it_is_added_and_kept_up_to_date(setup: Setup) -> None:
    setup.run("up")
    assert setup.built == ["cpu"]
    setup.run("up", "convert")
    assert (setup.folder / "convert" / "built").exists() and setup.built == ["cpu"] * 2
    setup.lock("cpu").write_text("numpy==2.0\n")
    setup.run("up")
    assert setup.built == ["cpu"] * 4, "both were out of date"
    setup.remove("convert")
    assert setup.all() == {setup.place.name}
    setup.run("up")
    assert setup.built == ["cpu"] * 4
    setup.remove("convert")  # which is not there


def test_the_environment_for_conversions_uses_the_packages_of_the_runners(deploy: SimpleNamespace, tmp_path: Path) -> None:
    known = deploy.environments.catalogue("cpu", tmp_path)
    assert set(deploy.environments.OPTIONAL) <= set(known)
    for name in ("convert", "tensorflow"):
        assert known[name].project[-1] == tmp_path / "runner" / "lib" / f"python{deploy.steps.PYTHON_VERSION}" / "site-packages"


@pytest.mark.parametrize(
    ("name", "next_step"), [("convert", "models convert"), ("tensorflow", "models convert"), ("labels", "after its next start")]
)
def test_adding_an_environment_says_what_comes_next_for_it(name: str, next_step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "build_environments", lambda *names, renew: True)
    said = CliRunner().invoke(app, ["environments", "add", name]).output
    assert next_step in said
    assert ("models convert" in said) == ("models convert" in next_step)
