"""The report on a collection's models: its file, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioengine_server.settings import Settings
from bioengine_server.store import conversion
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import SHIPPED_PACKAGES
from bioengine_server.zoo.outcome import NotAReport, Outcome, as_json, read_outcomes
from bioengine_server.zoo.run import outcome_of
from bioengine_server.zoo.table import as_markdown

from tests.stack.harness import command

SHARK = Outcome(asked="shark", id="affable-shark", version="1", formats=("onnx",), way="onnx", status="runs", memory=412_000_000)
STATE = Outcome(asked="a.zip", formats=("pytorch_state_dict",), status="does not run", reason="runs code of the package")


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert read_outcomes(file) == {}
    file.write_bytes(as_json({"shark": SHARK, "a.zip": STATE}))
    assert read_outcomes(file) == {"shark": SHARK, "a.zip": STATE}
    huge, endless = '[{"asked": "a", "memory": ' + "9" * 400 + "}]", '[{"asked": "a", "seconds": Infinity}]'
    for other in ("{}", "[1]", "not JSON", huge, endless):
        file.write_text(other)
        with pytest.raises(NotAReport, match="--output"):
            read_outcomes(file)


def test_the_table_has_a_line_for_each_and_those_that_run_first() -> None:
    text = as_markdown([STATE, SHARK])
    head, summary = [line for line in text.splitlines() if line and not line.startswith("|")]
    assert head.startswith("# ") and "1 of 2 models run here. does not run: 1" in summary
    first, second = text.strip().splitlines()[-2:]
    assert first.startswith("| affable-shark | 1 | onnx |") and "| 412 |" in first
    assert second.startswith("| a.zip |") and first.count("|") == second.count("|")


def test_a_package_writes_no_markup_into_the_table() -> None:
    nasty = "a | b\n# c <script>[d](http://e) \x1b[31m`f`"
    (line,) = [line for line in as_markdown([STATE.model_copy(update={"reason": nasty})]).splitlines() if "script" in line]
    plain = line.replace("\\|", "")
    assert plain.count("|") == 11 and "\x1b" not in line
    assert "\\<script" in line and "\\[d\\]" in line


@pytest.mark.parametrize("keep", [True, False])
def test_what_cannot_be_had_or_tested_is_told(tmp_path: Path, keep: bool) -> None:
    """Offline, and without the model runner's environment."""
    settings = Settings(home=tmp_path, offline=True, environments=tmp_path / "environments")
    missing = outcome_of("affable-shark", None, settings, keep)
    assert missing.status == "not imported" and "offline" in missing.reason
    imported = outcome_of("nuclei.zip", SHIPPED_PACKAGES / "drawn-nuclei", settings, keep)
    assert (imported.id, imported.way, imported.status) == ("drawn-nuclei", "onnx", "fails its test")
    assert imported.formats == ("onnx", "torchscript") and imported.reason and imported.seconds > 0
    assert ModelStore(settings.store).contains("drawn-nuclei") == keep


@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupted_conversion_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    """Ctrl-C comes in the middle of what can take minutes."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "is_wanted", lambda _: True)
    monkeypatch.setattr(conversion, "convert", interrupted)
    settings = Settings(home=tmp_path, offline=True, environments=tmp_path / "environments")
    with pytest.raises(KeyboardInterrupt):
        outcome_of("nuclei.zip", SHIPPED_PACKAGES / "drawn-nuclei", settings, keep)
    assert ModelStore(settings.store).contains("drawn-nuclei") == keep


def test_a_folder_without_packages_is_named(tmp_path: Path) -> None:
    said = command("zoo-report", "--packages", str(tmp_path), "--home", str(tmp_path / "home"))
    assert said.exit_code == 1 and f"{tmp_path} contains no packages" in said.stderr
