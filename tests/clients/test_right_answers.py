"""Every package's test tensors through the whole stack, for each of its weights and each client library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.clients.libraries import call
from tests.stack.harness import ZOO, Stack
from tests.tiers import cases

SMALL = {
    "conscientious-seashell": ("onnx", "torchscript"),
    "two-inputs": ("onnx", "torchscript"),
    "label-doubler": ("onnx", "torchscript"),
    "old-otter": ("onnx",),
    "slow-snail": ("torchscript",),
}
REAL = {"nuclei-broad": ("onnx", "torchscript"), "multi-tensor": ("torchscript",), "legacy-v04-onnx": ("onnx",)}
CASES = [(id, weights) for models in (SMALL, REAL) for id, formats in models.items() for weights in formats]


def package_folder(packages: Path, id: str) -> Path:
    if id in REAL:
        if not ZOO.is_dir():
            pytest.skip("the real packages of ../shared/zoo are not here")
        return ZOO / id
    return packages / id


def tolerance(folder: Path) -> dict[str, Any]:
    """The reference implementation's own: 1e-3 absolute and relative, unless the description has others."""
    config = yaml.safe_load((folder / "rdf.yaml").read_text()).get("config") or {}
    own = (config.get("bioimageio") or {}).get("reproducibility_tolerance") or [{}]
    # YAML reads 1e-5 as text.
    return {"atol": float(own[0].get("absolute_tolerance", 1e-3)), "rtol": float(own[0].get("relative_tolerance", 1e-3))}


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
@pytest.mark.parametrize(("id", "weights"), cases(CASES, core=[("conscientious-seashell", "onnx"), ("old-otter", "onnx")]))
def test_reproduces_the_packages_test_output(
    stack: Stack, packages: Path, tmp_path: Path, id: str, weights: str, library: str
) -> None:
    folder = package_folder(packages, id)
    inputs = [str(file) for file in sorted(folder.glob("test_input*.npy"))]
    wanted = [np.load(file) for file in sorted(folder.glob("test_output*.npy"))]
    report = call(library, "async", stack, tmp_path, {"model_id": id, "inputs": inputs, "weight_format": weights})
    assert report.get("success") is True, report
    assert len(report["outputs"]) == len(wanted)
    for got, expected in zip(report["outputs"], wanted):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, **tolerance(folder))


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
def test_sync_client(stack: Stack, packages: Path, tmp_path: Path, library: str) -> None:
    id = "conscientious-seashell"
    report = call(library, "sync", stack, tmp_path, {"model_id": id, "inputs": [str(packages / id / "test_input.npy")]})
    np.testing.assert_allclose(report["outputs"][0], np.load(packages / id / "test_output.npy"), atol=1e-3)
    assert set(report) >= {"task_id", "outputs", "execution_time", "success", "info"}
    assert isinstance(report["task_id"], str) and isinstance(report["execution_time"], float)


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
def test_integers_as_in_the_published_example(stack: Stack, packages: Path, tmp_path: Path, library: str) -> None:
    """int64 is not the model's dtype: cast to float32, the result is that of the same values."""
    id = "conscientious-seashell"
    image = np.load(packages / id / "test_input.npy").astype(np.int64)
    np.save(tmp_path / "image.npy", image)
    report = call(library, "async", stack, tmp_path, {"model_id": id, "inputs": [str(tmp_path / "image.npy")]})
    np.testing.assert_allclose(report["outputs"][0], np.load(packages / id / "test_output.npy"), atol=1e-3)


def test_outputs_are_in_dtypes_that_javascript_reads(stack: Stack, packages: Path, tmp_path: Path) -> None:
    id = "label-doubler"
    report = call("hypha", "async", stack, tmp_path, {"model_id": id, "inputs": [str(packages / id / "test_input.npy")]})
    assert report["outputs"][0].dtype == np.int32, "the model gives int64"


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
def test_a_large_image_passes(stack: Stack, tmp_path: Path, library: str) -> None:
    """More than one chunk of either protocol both ways: 12 MB in, 4 MB out."""
    image = np.random.default_rng(0).random((1, 3, 1024, 1024), np.float32)
    np.save(tmp_path / "image.npy", image)
    request = {"model_id": "conscientious-seashell", "inputs": [str(tmp_path / "image.npy")]}
    report = call(library, "async", stack, tmp_path, request)
    weights = np.array([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1)
    normal = (image - image.mean()) / (image.std() + 1e-6)
    np.testing.assert_allclose(report["outputs"][0], 1 / (1 + np.exp(-(normal * weights).sum(1, keepdims=True))), atol=1e-3)


@pytest.mark.parametrize("library", ["imjoy", "hypha"])
@pytest.mark.parametrize(("argument", "value"), [("server_url", "http://127.0.0.1:8000"), ("weight", 1)])
def test_a_refused_argument_raises_and_is_named(stack: Stack, tmp_path: Path, library: str, argument: str, value: Any) -> None:
    request = {"model_id": "conscientious-seashell", "arguments": {argument: value}}
    report = call(library, "async", stack, tmp_path, request)
    assert f"'{argument}' is refused" in report["raised"]
    assert "Traceback" not in report["raised"] and ".py" not in report["raised"]
