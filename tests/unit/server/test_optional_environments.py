"""Environments that the admin adds and removes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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
