"""The steps of a conversion, in this process and without the sandbox: what they write, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bioengine_contract.manifest import FILE_NAME, Weights
from bioengine_contract.package import Package
from bioengine_contract.weights import CONVERTED
from bioengine_runner.conversion import onnx_outputs, pytorch
from bioengine_runner.conversion.__main__ import _failure
from bioengine_runner.conversion.report import Outcome, Refusal
from bioengine_runner.conversion.samples import read_samples
from bioengine_runner.description import open_description
from bioengine_runner.errors import WeightsDamaged
from bioengine_runner.package_test import test_package as run_package_test
from bioengine_runner.rundir import Boot

from tests.packages import architectures, state_dicts
from tests.unit.runner.stored import stored

SHAPE = (1, 1, 16, 16)


def package(folder: Path, id: str, code: str = architectures.small(), **options: Any) -> Package:
    """A package as the store has it. `options`: of `state_dicts.write`."""
    return as_stored(stored(state_dicts.write(folder, id, code, **{"shape": SHAPE, **options}), id))


def as_stored(package: Package) -> Package:
    (package.folder / FILE_NAME).write_text(package.manifest.model_dump_json())
    return package


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Those for what is given, and for what is written."""
    made = (tmp_path / "given", tmp_path / "output")
    for folder in made:
        folder.mkdir()
    return made


def test_a_network_is_exported_with_the_names_and_free_sizes_of_its_description(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    given, output = folders
    model = package(tmp_path, "residual-rook", architectures.UNET_2D, shape=(1, 1, 32, 32), step=4)
    sample = np.random.default_rng(1).random((2, 1, 44, 36), np.float32)
    np.save(given / "sample-1-0.npy", sample)
    report = pytorch.run(model.folder, given, output)
    assert report.outcome is Outcome.DONE and report.versions["torch"]
    graph = onnx.load(output / CONVERTED).graph
    assert [value.name for value in graph.input] == ["image"] and [value.name for value in graph.output] == ["out"]
    sizes = [each.dim_param or each.dim_value for each in graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["image_batch", 1, "image_y", "image_x"]
    (result,) = onnxruntime.InferenceSession(str(output / CONVERTED)).run(None, {"image": sample})
    for kind in ("eager", "trace"):
        np.testing.assert_allclose(result, np.load(output / f"{kind}-1-0.npy"), atol=1e-5)
    # As the server goes on: the second step, and the package's own test.
    (given / CONVERTED).write_bytes((output / CONVERTED).read_bytes())
    assert onnx_outputs.run(model.folder, given, output).outcome is Outcome.DONE
    np.testing.assert_allclose(np.load(output / "onnx-1-0.npy"), result)
    (model.folder / CONVERTED).write_bytes((output / CONVERTED).read_bytes())
    converted = with_converted(model)
    description = open_description(converted)
    assert description.weights.onnx is not None and description.weights.onnx.parent == "pytorch_state_dict"
    boot = Boot(tmp_path, tmp_path, 1, debug=False, accelerator="cpu")
    assert run_package_test(converted, "onnx", boot)["status"] == "passed"


def with_converted(package: Package) -> Package:
    import hashlib

    sha256 = hashlib.sha256((package.folder / CONVERTED).read_bytes()).hexdigest()
    weights = {**package.manifest.weights, "onnx": Weights(CONVERTED, sha256, converted_from="pytorch_state_dict")}
    return as_stored(replace(package, manifest=package.manifest.model_copy(update={"weights": weights})))


def test_fixed_sizes_stay_fixed(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    given, output = folders
    pytorch.run(package(tmp_path, "fixed-fly").folder, given, output)
    graph = onnx.load(output / CONVERTED).graph
    assert [each.dim_value for each in graph.input[0].type.tensor_type.shape.dim] == list(SHAPE)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (architectures.small(forward="return {'out': x}"), "its network gives a dict, where tensors are expected"),
        (architectures.small(forward="return x, x"), "its network gives 2 tensors, but the description has 1 outputs"),
    ],
)
def test_outputs_that_are_not_those_of_the_description(
    tmp_path: Path, folders: tuple[Path, Path], code: str, reason: str
) -> None:
    model = package(tmp_path, "odd-owl", code, made_by=architectures.small())
    with pytest.raises(Refusal, match=reason):
        pytorch.run(model.folder, *folders)


def test_sizes_that_the_network_itself_does_not_take(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    given, output = folders
    model = package(tmp_path, "patchy-penguin", architectures.TRANSFORMER, shape=(1, 1, 32, 32), step=8)
    np.save(given / "sample-1-0.npy", np.zeros((1, 1, 48, 32), np.float32))
    with pytest.raises(Refusal, match="its own network fails on images of 1x1x48x32, which the description allows"):
        pytorch.run(model.folder, given, output)


def test_files_that_are_not_those_of_the_import(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    model = package(tmp_path, "changed-chimp")
    with open(model.folder / "weights.pt", "ab") as file:
        file.write(b"x")
    with pytest.raises(WeightsDamaged):
        pytorch.run(model.folder, *folders)


def test_converted_weights_that_do_not_run(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    given, output = folders
    model = package(tmp_path, "broken-bat")
    (given / CONVERTED).write_bytes(b"no ONNX")
    with pytest.raises(Refusal, match="ONNX Runtime cannot open the converted weights"):
        onnx_outputs.run(model.folder, given, output)
    pytorch.run(model.folder, given, output)
    (given / CONVERTED).write_bytes((output / CONVERTED).read_bytes())
    np.save(given / "sample-1-0.npy", np.zeros((1, 1, 48, 32), np.float32))
    with pytest.raises(Refusal, match="the converted weights fail on sample 1, 1x1x48x32"):
        onnx_outputs.run(model.folder, given, output)


def test_optional_inputs_cannot_be_left_out_of_onnx(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    model = package(tmp_path, "optional-oryx")
    inputs = tuple(replace(spec, optional=True) for spec in model.manifest.inputs)
    optional = replace(model, manifest=model.manifest.model_copy(update={"inputs": inputs}))
    with pytest.raises(Refusal, match="optional inputs"):
        read_samples(optional, open_description(model), folders[0])


def test_what_a_package_raises_has_a_reason() -> None:
    def outer(cause: BaseException) -> Exception:
        try:
            raise ImportError("Failed to import architecture.py") from cause
        except ImportError as error:
            return error

    missing = _failure(outer(ModuleNotFoundError("No module named 'a.b'", name="a.b")))
    assert (missing.outcome, missing.detail) == (Outcome.NEEDS_MODULE, "a.b")
    assert _failure(RuntimeError("DefaultCPUAllocator: can't allocate memory")).outcome is Outcome.TOO_LITTLE_MEMORY
    assert _failure(outer(PermissionError(13, "Permission denied"))).detail.endswith("Permission denied")
    assert "ended the process" in _failure(SystemExit(3)).detail
