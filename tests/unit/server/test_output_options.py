"""The options of commands that name a file to write: one that is there is refused before there is any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioengine_server.cli import app
from bioengine_server.store.model_store import ModelStore
from typer.testing import CliRunner


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 1 and done.stdout == "" and done.stderr.startswith("bioengine: "), done.output
    return done.stderr


@pytest.mark.parametrize("command", [("bench", "--json"), ("run", "drawn-nuclei", "x.tif", "-o"), ("demo", "-o")])
def test_a_place_where_nothing_can_be_written(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Before a server is looked for, or started, and minutes are measured."""
    (tmp_path / "file").write_text("my own")
    output = tmp_path / "file" if command[0] != "bench" else tmp_path / "file" / "x.json"
    assert "is a file, not a folder" in refused(*command, output)
    assert (tmp_path / "file").read_text() == "my own"


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    for name, command in (("x.json", ("bench", "--json", tmp_path / "x.json")), ("mask.png", ("demo", "-o", tmp_path))):
        (tmp_path / name).write_text("my own")
        assert f"{name} already exists" in refused(*command)
        assert (tmp_path / name).read_text() == "my own"


def test_an_export_into_a_folder_has_the_models_name(packages: Path, tmp_path: Path) -> None:
    ModelStore(tmp_path / "home" / "models").import_package(packages / "old-otter")
    export = ("models", "export", "old-otter", "--home", tmp_path / "home", "-o", tmp_path)
    done = CliRunner().invoke(app, [str(argument) for argument in export])
    assert done.exit_code == 0, done.output
    assert len(list(tmp_path.glob("old-otter-*.zip"))) == 1
    assert "already exists" in refused(*export)
