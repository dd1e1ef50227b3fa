"""Packages that were damaged after their import: the error says so, and another import mends it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import Stack, copy_package, example_input, fill_home

pytestmark = pytest.mark.extended


THREE_FORMATS = "three-formats"


@pytest.fixture(scope="module")
def damaged(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with the damaged packages of all of these tests."""
    folder = tmp_path_factory.mktemp("damaged")
    home = folder / "hö me"
    fill_home(home, packages)
    damage(home / "models")
    damage_all_formats(home / "models", copy_package(packages, "conscientious-seashell", folder))
    with Stack(home) as stack:
        yield stack


def damage(models: Path) -> None:
    weights = models / "conscientious-seashell" / "1.0.0" / "weights.onnx"
    weights.write_bytes(weights.read_bytes()[:-10])
    otter = models / "old-otter" / "1.0.0" / "rdf.yaml"
    otter.write_text(otter.read_text().replace("axes: bcyx", "axes: 7"))
    manifest = models / "label-doubler" / "1.0.0" / "model.json"
    manifest.write_text("{")
    # Weights whose hash is right and that are none: damaged before they were hashed.
    doubler = models / "two-inputs" / "1.0.0"
    (doubler / "weights.onnx").write_bytes(b"not a model")
    document = json.loads((doubler / "model.json").read_text())
    document["files"]["weights.onnx"] = document["weights"]["onnx"]["sha256"] = hashlib.sha256(b"not a model").hexdigest()
    (doubler / "model.json").write_text(json.dumps(document))


def damage_all_formats(models: Path, package: Path) -> None:
    """TensorFlow's of a real description, besides ONNX and TorchScript that are damaged after the import."""
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    (package / "weights.h5").write_bytes(b"keras")
    rdf["weights"]["keras_hdf5"] = {
        "source": "weights.h5", "sha256": hashlib.sha256(b"keras").hexdigest(), "tensorflow_version": "2.10"
    }  # fmt: skip
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    folder = ModelStore(models).import_package(package, id=THREE_FORMATS).folder
    (folder / "weights.onnx").write_bytes(b"")
    (folder / "weights.pt").unlink()


def test_damaged_weights_and_descriptions(damaged: Stack, packages: Path) -> None:
    with damaged.client() as client:
        expected = {
            "conscientious-seashell": "weights.onnx) are damaged: the SHA-256",
            "old-otter": "package of model 'old-otter' cannot be read: rdf.yaml: the SHA-256",
            "label-doubler": "package of model 'label-doubler' cannot be read",
            "two-inputs": "weights.onnx) cannot be opened: ",
        }
        for id, text in expected.items():
            result = client.run(id, example_input(packages, id), weight_format="onnx")
            assert result["success"] is False and text in result["error"], result
            assert "models import" in result["error"] and "Traceback" not in result["error"]
            assert str(damaged.home) not in result["error"]
        # Who names no format gets the next one.
        for id in ("conscientious-seashell", "two-inputs"):
            result = client.run(id, example_input(packages, id))
            assert result["success"] and result["weight_format"] == "torchscript", result
            assert_right(result, packages, id)
        for id in expected:
            ModelStore(damaged.home / "models").import_package(packages / id, replace=True)
            result = client.run(id, example_input(packages, id))
            assert result["success"] is True, result
            assert_right(result, packages, id)
            assert result["weight_format"] == "onnx"


def test_when_no_weights_can_be_opened_each_has_its_reason(damaged: Stack, packages: Path) -> None:
    with damaged.client() as client:
        error = client.run(THREE_FORMATS, example_input(packages, "conscientious-seashell"))["error"]
    for text in ("onnx: damaged (weights.onnx: the SHA", "torchscript: damaged (weights.pt: the file cannot be read"):
        assert text in error, error
    assert "keras_hdf5: not supported by this server yet" in error


def assert_right(result: dict[str, Any], packages: Path, id: str) -> None:
    expected = np.load(sorted((packages / id).glob("test_output*.npy"))[0])
    np.testing.assert_allclose(result["outputs"][0], expected, atol=1e-3)
