"""Every package's test tensors through the whole stack, for each of its weights and each client library."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.clients.ahead import selected
from tests.clients.libraries import call, calls
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


LIBRARIES = ("imjoy", "hypha")
SEASHELL = "conscientious-seashell"
REFUSED = [("server_url", "http://127.0.0.1:8000"), ("weight", 1)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("large") / "image.npy"
    np.save(file, np.random.default_rng(0).random((1, 3, 1024, 1024), np.float32))
    return file


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, stack: Stack, packages: Path, large: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """What a library's async client came to with each request: one program makes all of those whose tests are run."""
    integers = tmp_path_factory.mktemp("integers") / "image.npy"
    np.save(integers, np.load(packages / SEASHELL / "test_input.npy").astype(np.int64))
    asked: dict[tuple[str, ...], dict[str, Any]] = {
        ("integers",): {"model_id": SEASHELL, "inputs": [str(integers)]},
        ("labels",): {"model_id": "label-doubler", "inputs": inputs_of(packages / "label-doubler")},
        ("large",): {"model_id": SEASHELL, "inputs": [str(large)]},
        **{("refused", name): {"model_id": SEASHELL, "arguments": {name: value}} for name, value in REFUSED},
    }
    for id, weights in selected(request, "test_reproduces_the_packages_test_output", "id", "weights"):
        if id not in REAL or ZOO.is_dir():
            inputs = inputs_of(package_folder(packages, id))
            asked[id, weights] = {"model_id": id, "inputs": inputs, "weight_format": weights}

    @functools.cache
    def told(library: str) -> dict[tuple[str, ...], dict[str, Any]]:
        folders = {key: tmp_path_factory.mktemp("-".join(key)) for key in asked}
        found = calls(library, "async", stack, {folder: asked[key] for key, folder in folders.items()}, timeout=300)
        return {key: found[folder] for key, folder in folders.items()}

    return lambda library, *key: told(library)[key]


def inputs_of(folder: Path) -> list[str]:
    return [str(file) for file in sorted(folder.glob("test_input*.npy"))]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("id", "weights"), cases(CASES, core=[("conscientious-seashell", "onnx"), ("old-otter", "onnx")]))
def test_reproduces_the_packages_test_output(
    reports: Callable[..., dict[str, Any]], packages: Path, id: str, weights: str, library: str
) -> None:
    folder = package_folder(packages, id)
    wanted = [np.load(file) for file in sorted(folder.glob("test_output*.npy"))]
    report = reports(library, id, weights)
    assert report.get("success") is True, report
    assert len(report["outputs"]) == len(wanted)
    for got, expected in zip(report["outputs"], wanted):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, **tolerance(folder))


@pytest.mark.parametrize("library", LIBRARIES)
def test_sync_client(stack: Stack, packages: Path, tmp_path: Path, library: str) -> None:
    report = call(library, "sync", stack, tmp_path, {"model_id": SEASHELL, "inputs": inputs_of(packages / SEASHELL)})
    np.testing.assert_allclose(report["outputs"][0], np.load(packages / SEASHELL / "test_output.npy"), atol=1e-3)
    assert set(report) >= {"task_id", "outputs", "execution_time", "success", "info"}
    assert isinstance(report["task_id"], str) and isinstance(report["execution_time"], float)


@pytest.mark.parametrize("library", LIBRARIES)
def test_integers_as_in_the_published_example(reports: Callable[..., dict[str, Any]], packages: Path, library: str) -> None:
    """int64 is not the model's dtype: cast to float32, the result is that of the same values."""
    report = reports(library, "integers")
    np.testing.assert_allclose(report["outputs"][0], np.load(packages / SEASHELL / "test_output.npy"), atol=1e-3)


def test_outputs_are_in_dtypes_that_javascript_reads(reports: Callable[..., dict[str, Any]]) -> None:
    assert reports("hypha", "labels")["outputs"][0].dtype == np.int32, "the model gives int64"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_large_image_passes(reports: Callable[..., dict[str, Any]], large: Path, library: str) -> None:
    """More than one chunk of either protocol both ways: 12 MB in, 4 MB out."""
    image = np.load(large)
    report = reports(library, "large")
    weights = np.array([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1)
    normal = (image - image.mean()) / (image.std() + 1e-6)
    np.testing.assert_allclose(report["outputs"][0], 1 / (1 + np.exp(-(normal * weights).sum(1, keepdims=True))), atol=1e-3)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("argument", [name for name, _ in REFUSED])
def test_a_refused_argument_raises_and_is_named(reports: Callable[..., dict[str, Any]], library: str, argument: str) -> None:
    report = reports(library, "refused", argument)
    assert f"'{argument}' is refused" in report["raised"]
    assert "Traceback" not in report["raised"] and ".py" not in report["raised"]
