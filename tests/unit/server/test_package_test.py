"""`models test`: what it hands to the model runner, and says of its report. The model runner is a fake, and its card is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.settings import Settings
from bioengine_server.store import package_test
from bioengine_server.store.errors import StoreNotWritable
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import SHIPPED_PACKAGES
from bioengine_server.store.package_test import PackageTest

REPORT: dict[str, Any] = {"status": "passed", "errors": [], "summary": {}, "tiles": {"problem": "cannot be tiled"}}


def outcome_of(tmp_path: Path, more: dict[str, Any], **settings: Any) -> tuple[list[PackageTest], dict[str, str]]:
    """The outcome where the model runner reports `more`, and the variables that it was started with."""
    (tmp_path / "report").write_text(json.dumps({name: {**REPORT, **more} for name in ("onnx", "torchscript")}))
    program = tmp_path / "environments" / "runner" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nenv > "{tmp_path}/variables"\ncp "{tmp_path}/report" "$5/report.json"\n')
    program.chmod(0o755)
    store = ModelStore(tmp_path / "models")
    store.import_package(SHIPPED_PACKAGES / "drawn-nuclei")
    made = Settings(home=tmp_path, environments=tmp_path / "environments", **settings)
    outcome = package_test.test_package(store.find("drawn-nuclei"), made)
    lines = (tmp_path / "variables").read_text().splitlines()
    return outcome, dict(line.split("=", 1) for line in lines if "=" in line)


def test_it_computes_as_the_server_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that stands in a settings file, which is none of the environment."""
    for name in ("BIOENGINE_ACCELERATOR", "BIOENGINE_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    outcome, variables = outcome_of(tmp_path, {}, accelerator="cuda", precision="fast")
    assert (variables["BIOENGINE_ACCELERATOR"], variables["BIOENGINE_PRECISION"]) == ("cuda", "fast")
    assert [(each.weights, each.precision) for each in outcome] == [("onnx", ""), ("torchscript", "")]


@pytest.mark.parametrize(
    ("precision", "says"),
    [
        ({"differences": {"mask": 0.0019, "other": 0.0}}, "BIOENGINE_PRECISION=fast differs by at most 0.0019 from exact"),
        ({"problem": "could not be compared: out of memory"}, "could not be compared: out of memory"),
    ],
)
def test_on_a_card_it_says_by_how_much_fast_differs(tmp_path: Path, precision: dict[str, Any], says: str) -> None:
    outcome, _ = outcome_of(tmp_path, {"precision": precision})
    assert [each.precision for each in outcome] == [says, says]


@pytest.mark.parametrize(
    ("tiles", "says"),
    [
        (
            {"tile": {"y": 32, "x": 64}, "differences": {"a": 1e-6, "b": 0.25}},
            "tiles (y 32, x 64) differ by at most 0.25 from the whole",
        ),
        (
            {"tile": {"y": 64}, "halo": {"y": 16}, "differences": {"a": 0.5}, "share": 0.0099},
            "tiles (y 64; halo y 16) differ by at most 0.5 from tiles that lie elsewhere",
        ),
        (
            {"tile": {"y": 64}, "halo": {"y": 16}, "differences": {"a": 0.5}, "share": 0.174},
            "tiles (y 64; halo y 16) differ by at most 0.5 from tiles that lie elsewhere: inexact in tiles (17% of the range)",
        ),
    ],
)
def test_it_says_how_exact_tiles_are(tmp_path: Path, tiles: dict[str, Any], says: str) -> None:
    outcome, _ = outcome_of(tmp_path, {"tiles": tiles})
    assert [each.tiles for each in outcome] == [says, says]


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(package_test, "write_json", full)
    with pytest.raises(StoreNotWritable, match="No space left"):
        outcome_of(tmp_path, {})
