"""Packages that were damaged after their import: the error says so, and another import mends it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import Stack, example_input


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

    document["weights"]["onnx"]["sha256"] = hashlib.sha256(b"not a model").hexdigest()
    (doubler / "model.json").write_text(json.dumps(document))
    with Stack(own_home) as stack, stack.client() as client:
        expected = {
            "conscientious-seashell": "weights.onnx) are damaged: their SHA-256",
            "old-otter": "package of model 'old-otter' cannot be read",
            "label-doubler": "package of model 'label-doubler' cannot be read",
            "two-inputs": "weights.onnx) are damaged: they cannot be opened",
        }
        for id, text in expected.items():
            result = client.run(id, example_input(packages, id))
            assert result["success"] is False and text in result["error"], result
            assert "models import" in result["error"] and "Traceback" not in result["error"]
        assert client.run(
            "conscientious-seashell", example_input(packages, "conscientious-seashell"), weight_format="torchscript"
        )["success"]
        for id in expected:
            ModelStore(own_home / "models").import_package(packages / id)
            result = client.run(id, example_input(packages, id))
            assert result["success"] is True, result
            np.testing.assert_allclose(
                result["outputs"][0], np.load(sorted((packages / id).glob("test_output*.npy"))[0]), atol=1e-3
            )
