"""Packages that were damaged after their import: the error says so, and another import mends it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import Stack, copy_package, example_input

pytestmark = pytest.mark.extended


def test_damaged_weights_and_descriptions(own_home: Path, packages: Path) -> None:
    seashell = own_home / "models" / "conscientious-seashell" / "1.0.0"
    weights = seashell / "weights.onnx"
    weights.write_bytes(weights.read_bytes()[:-10])
    otter = own_home / "models" / "old-otter" / "1.0.0" / "rdf.yaml"
    otter.write_text(otter.read_text().replace("axes: bcyx", "axes: 7"))
    manifest = own_home / "models" / "label-doubler" / "1.0.0" / "model.json"
    manifest.write_text("{")
    # Weights whose hash is right and that are none: damaged before they were hashed.
    doubler = own_home / "models" / "two-inputs" / "1.0.0"
    (doubler / "weights.onnx").write_bytes(b"not a model")
    document = json.loads((doubler / "model.json").read_text())
    document["files"]["weights.onnx"] = document["weights"]["onnx"]["sha256"] = hashlib.sha256(b"not a model").hexdigest()
    (doubler / "model.json").write_text(json.dumps(document))
    with Stack(own_home) as stack, stack.client() as client:
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
            assert str(own_home) not in result["error"]
        # Who names no format gets the next one.
        for id in ("conscientious-seashell", "two-inputs"):
            result = client.run(id, example_input(packages, id))
            assert result["success"] and result["weight_format"] == "torchscript", result
            assert_right(result, packages, id)
        for id in expected:
            ModelStore(own_home / "models").import_package(packages / id, replace=True)
            result = client.run(id, example_input(packages, id))
            assert result["success"] is True, result
            assert_right(result, packages, id)
            assert result["weight_format"] == "onnx"


def test_when_no_weights_can_be_opened_each_has_its_reason(own_home: Path, packages: Path, tmp_path: Path) -> None:
    """TensorFlow's of a real description, besides ONNX and TorchScript that were damaged after the import."""
    package = copy_package(packages, "conscientious-seashell", tmp_path)
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    (package / "weights.h5").write_bytes(b"keras")
    rdf["weights"]["keras_hdf5"] = {
        "source": "weights.h5", "sha256": hashlib.sha256(b"keras").hexdigest(), "tensorflow_version": "2.10"
    }  # fmt: skip
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    folder = ModelStore(own_home / "models").import_package(package, replace=True).folder
    (folder / "weights.onnx").write_bytes(b"")
    (folder / "weights.pt").unlink()
    with Stack(own_home) as stack, stack.client() as client:
        error = client.run(package.name, example_input(packages, package.name))["error"]
    for text in ("onnx: damaged (weights.onnx: the SHA", "torchscript: damaged (weights.pt: the file cannot be read"):
        assert text in error, error
    assert "keras_hdf5: not supported by this server yet" in error


def assert_right(result: dict[str, Any], packages: Path, id: str) -> None:
    expected = np.load(sorted((packages / id).glob("test_output*.npy"))[0])
    np.testing.assert_allclose(result["outputs"][0], expected, atol=1e-3)
