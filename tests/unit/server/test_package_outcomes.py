"""The test of a stored package: what is run, what is told of it, where its report stays. The model runner is a shell script."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bioengine_contract.manifest import Weights
from bioengine_server.settings import Settings
from bioengine_server.store.errors import NotServedHere, StoreError, StoreNotWritable
from bioengine_server.store.model_store import StoredModel
from bioengine_server.store.package_test import PackageTest
from bioengine_server.store.package_test import test_package as run_package_test
from bioengine_server.store.package_test_run import BadReport

from tests.unit.contract.packages import manifest

TRUSTED = f"a@{'0' * 64},b@{'1' * 64}"
WEIGHTS = {name: Weights(source=f"weights.{name}", sha256="0" * 64) for name in ("onnx", "torchscript")}
PASSED = {"status": "passed", "errors": [], "tiles": {"tile": {"y": 64, "x": 32}, "differences": {"mask": 0.0123456}}}
FAILED = {"status": "failed", "errors": ["output 'mask'\n  differs", "by \x1b[2J 0.5"], "tiles": {"problem": "it is not cut"}}


def stored(tmp_path: Path, **about: Any) -> StoredModel:
    folder = tmp_path / "affable-shark"
    folder.mkdir()
    return StoredModel(manifest(**about), folder, True)


def settings(tmp_path: Path, script: str, trusted: str = "") -> Settings:
    """Environments in which the runner's Python is this script. Its arguments: -P -m MODULE PACKAGE FOLDER FORMAT..."""
    python = tmp_path / "environments" / "runner" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)
    return settings_of(tmp_path, trusted)


def settings_of(folder: Path, trusted: str = "") -> Settings:
    return Settings(home=folder / "home", environments=folder / "environments", trusted_models=trusted)


def reporting(tmp_path: Path, report: dict[str, Any], trusted: str = "") -> Settings:
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "told").mkdir()
    told = f'echo "$4 $6 $7" > "{tmp_path}/told/arguments"; echo "$BIOENGINE_TRUSTED_MODELS" > "{tmp_path}/told/trusted"'
    return settings(tmp_path, f'{told}; cp "{tmp_path}/report.json" "$5/report.json"', trusted)


def test_each_of_the_weights_has_its_outcome_in_a_line(tmp_path: Path) -> None:
    model = stored(tmp_path, weights=WEIGHTS)
    report = {"onnx": PASSED, "torchscript": FAILED}
    outcomes = run_package_test(model, reporting(tmp_path, report, TRUSTED))
    assert outcomes == [
        PackageTest("onnx", "passed", "", "tiles (y 64, x 32) differ by at most 0.012 from the whole"),
        PackageTest("torchscript", "failed", r"output 'mask' differs; by \x1b[2J 0.5", "it is not cut"),
    ]
    assert (tmp_path / "told" / "arguments").read_text().split() == [str(model.folder), "onnx", "torchscript"]
    assert (tmp_path / "told" / "trusted").read_text() == f"{TRUSTED}\n"
    assert json.loads((model.folder / "reports" / "test.json").read_text()) == report


@pytest.mark.parametrize(
    ("about", "detail"),
    [
        ({"weights": WEIGHTS, "code": ("custom preprocessing of 'image'",)}, "not trusted: custom preprocessing of 'image'"),
        ({"unsupported_weights": ("keras_hdf5", "tensorflow_js")}, "only keras_hdf5, tensorflow_js"),
        ({"weights": {"keras_hdf5": Weights("weights.h5", "0")}}, "keras_hdf5 weights that are not converted to onnx"),
    ],
)
def test_nothing_is_run_of_what_is_not_trusted_or_not_supported(tmp_path: Path, about: dict[str, Any], detail: str) -> None:
    model = stored(tmp_path, **about)
    outcomes = run_package_test(model, settings(tmp_path, f'touch "{tmp_path}/was-run"'))
    assert outcomes == [PackageTest("", "not run", detail)]
    assert not (tmp_path / "was-run").exists() and not list(model.folder.iterdir())


def test_a_server_without_the_runners_environment_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotServedHere, match="affable-shark"):
        run_package_test(stored(tmp_path, weights=WEIGHTS), settings_of(tmp_path / "nothing"))


def test_a_report_that_cannot_stay_is_known_before_the_test(tmp_path: Path) -> None:
    model = stored(tmp_path, weights=WEIGHTS)
    (model.folder / "reports").write_text("a file of somebody's")
    with pytest.raises(StoreNotWritable):
        run_package_test(model, settings(tmp_path, f'touch "{tmp_path}/was-run"'))
    assert not (tmp_path / "was-run").exists()


def test_what_went_wrong_is_told_and_an_old_report_stays(tmp_path: Path) -> None:
    model = stored(tmp_path, weights=WEIGHTS)
    with pytest.raises(BadReport, match="it is not about onnx, torchscript"):
        run_package_test(model, reporting(tmp_path, {"onnx": PASSED}))
    assert not list((model.folder / "reports").iterdir())
    shutil.rmtree(tmp_path / "environments")
    with pytest.raises(StoreError, match=r"could not be run \(exit status 3\): no torch"):
        run_package_test(model, settings(tmp_path, "echo no torch >&2; exit 3"))
