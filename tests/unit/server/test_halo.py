"""The halo that is measured at import: when it is, what becomes of it, and what is said where it is not. The model runner is a
fake, which reports what is written here; `tests/stack/test_models_command.py` has the real one.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_contract.manifest import MeasuredHalo
from bioengine_server.settings import Settings
from bioengine_server.store.halo import in_words, with_halo
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.names import SHIPPED_PACKAGES


def imported(folder: Path, package: Path, report: Any, environments: Path | None = None) -> StoredModel:
    """The package, imported where the model runner reports `report`."""
    (folder / "report").write_text(report if isinstance(report, str) else json.dumps({"onnx": {"halo": report}}))
    program = folder / "environments" / "runner" / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "#!/bin/sh",
        f'env > "{folder}/variables"; echo "$6 $7" > "{folder}/arguments"; cp "$4/model.json" "{folder}/seen.json"',
        f'cp "{folder}/report" "$5/report.json"',
    ]
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    settings = Settings(home=folder, environments=environments or folder / "environments")
    return ModelStore(folder / "models", measure=partial(with_halo, settings=settings)).import_package(package, replace=True)


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    """A package that takes images of 80 x 80 and declares no halo."""
    package = Path(shutil.copytree(SHIPPED_PACKAGES / "drawn-nuclei", tmp_path / "fixed-nuclei"))
    change(package, {"size": 80}, None)
    return package


def change(package: Path, size: dict[str, Any], halo: int | None) -> None:
    """Give the image axes of a package's input another size, and those of its outputs another halo."""
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    rdf["id"] = "fixed-nuclei"
    for axis in (axis for spec in rdf["inputs"] for axis in spec["axes"] if axis["type"] == "space"):
        axis.update(size)
    for axis in (axis for spec in rdf["outputs"] for axis in spec["axes"] if axis["type"] == "space"):
        axis.pop("halo", None)
        axis.update({} if halo is None else {"halo": halo})
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))


def test_it_is_in_the_manifest_and_said(tmp_path: Path, fixed: Path) -> None:
    model = imported(tmp_path, fixed, {"pixels": {"y": 12, "x": 13}, "difference": 0.0071})
    assert model.manifest.halo == MeasuredHalo({"y": 12, "x": 13}, 0.0071, "onnx")
    assert ModelStore(tmp_path / "models").find("fixed-nuclei").manifest == model.manifest
    assert in_words(model.manifest) == "halo of y 12, x 13 pixels, measured with its onnx weights on its test image"
    assert (tmp_path / "arguments").read_text() == "--halo onnx\n"
    assert json.loads((tmp_path / "seen.json").read_text())["id"] == "fixed-nuclei"
    variables = (tmp_path / "variables").read_text().splitlines()
    assert {"BIOENGINE_ACCELERATOR=cpu", "BIOENGINE_TRUSTED_MODELS="} <= set(variables)


def test_a_model_that_sees_its_whole_tile_is_said_to_be_inexact(tmp_path: Path, fixed: Path) -> None:
    model = imported(tmp_path, fixed, {"pixels": {"y": 20, "x": 20}, "difference": 0.174})
    assert in_words(model.manifest).startswith(
        "inexact. The model looks farther than its tiles can overlap: at a halo of y 20, x 20 pixels, results differ by up to 17%"
    )


@pytest.mark.parametrize(("size", "halo"), [({"size": 80}, 16), ({"size": {"min": 72, "step": 8}}, None)])
def test_what_is_declared_or_free_is_not_measured(tmp_path: Path, fixed: Path, size: dict[str, Any], halo: int | None) -> None:
    change(fixed, size, halo)
    model = imported(tmp_path, fixed, {})
    assert model.manifest.halo is None and in_words(model.manifest) == "" and not (tmp_path / "arguments").exists()


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ({"problem": "cannot be tiled: its score"}, "cannot be tiled: its score"),
        ({"problem": "\x1b[2J" + "x" * 9999}, "\\x1b[2J"),
        ({"pixels": {"y": -1}}, "is not valid"),
        ({"pixels": {"y": 8}, "difference": "NaN"}, "is not valid"),
        ("{}", "is not about onnx"),
        ("[" * 100_000, "is not valid"),
    ],
)
def test_what_the_model_reports_is_not_believed(tmp_path: Path, fixed: Path, report: Any, says: str) -> None:
    """The package is imported all the same, with its default."""
    halo = imported(tmp_path, fixed, report).manifest.halo
    assert halo is not None and halo.pixels == {} and len(halo.problem) < 500
    assert says in halo.problem and "\x1b" not in halo.problem


def test_without_the_model_runner_the_import_works_and_says_what_was_not_measured(tmp_path: Path, fixed: Path) -> None:
    model = imported(tmp_path, fixed, {}, environments=tmp_path / "none")
    assert in_words(model.manifest) == "their halo was not measured: the model runner's environment is not here"


def test_code_of_a_package_is_not_run_for_it(tmp_path: Path, fixed: Path) -> None:
    rdf = yaml.safe_load((fixed / "rdf.yaml").read_text())
    (fixed / "own.py").write_text("def step(): pass")
    custom = {"id": "custom", "callable": "step", "source": "own.py", "kwargs": {}}
    rdf["format_version"] = "0.5.12"
    del rdf["covers"], rdf["documentation"]
    for spec in rdf["outputs"]:
        spec["postprocessing"] = [custom]
    (fixed / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    model = imported(tmp_path, fixed, {})
    assert model.manifest.code and not (tmp_path / "arguments").exists()
    assert "no weights that can be run without its own code" in in_words(model.manifest)


@pytest.mark.parametrize("what", ["tempfile.mkdtemp", "run_hostile"])
def test_where_the_machine_cannot_begin_it_the_import_works(
    tmp_path: Path, fixed: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/bioengine-test-1")

    monkeypatch.setattr(f"bioengine_server.store.package_test_run.{what}", refused)
    model = imported(tmp_path, fixed, {})
    assert model.manifest.halo is not None
    assert "could not be begun: Permission denied (/tmp/bioengine-test-1)" in model.manifest.halo.problem
