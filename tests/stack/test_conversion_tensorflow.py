"""Packages with weights of TensorFlow or Keras alone, from their import or download to the result that a client gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conversion import check_first_request, needs_tensorflow, run_with_tensorflow
from tests.stack.harness import Stack, bioengine

pytestmark = [pytest.mark.extended, needs_tensorflow]

SHAPE = (2, 64, 48, 1)

# Makes packages, and what TensorFlow makes of an image with two of them, without any of this project's code.
PROGRAM = """
import sys, zipfile, numpy as np, tensorflow as tf, tf_keras
from tests.packages import tensorflow_models
folder = sys.argv[1]
sys.argv[2:] = ["keras-kiwi", "older-owl", "fixed-finch", "prying-pike"]
tensorflow_models.main()
image = np.load(folder + "/image.npy")
results = {"keras-kiwi": tf_keras.models.load_model(folder + "/keras-kiwi/weights.h5", compile=False).predict(image)}
zipfile.ZipFile(folder + "/older-owl/weights.zip").extractall(folder + "/bundle")
(found,) = tf.io.gfile.glob(folder + "/bundle/*/saved_model.pb") or tf.io.gfile.glob(folder + "/bundle/saved_model.pb")
function = tf.saved_model.load(found.rpartition("/")[0], tags=["serve"]).signatures["serving_default"]
(results["older-owl"],) = function(tf.constant(image)).values()
for id, result in results.items():
    np.save(folder + "/" + id + ".npy", np.asarray(result))
"""


@pytest.fixture(scope="module")
def look_alikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with packages, a random `image.npy`, and for two of them what it becomes: `<id>.npy`."""
    folder = tmp_path_factory.mktemp("tensorflow")
    np.save(folder / "image.npy", np.random.default_rng().random(SHAPE, np.float32))
    run_with_tensorflow("-c", PROGRAM, str(folder))
    return folder


@pytest.mark.parametrize(("id", "format"), [("keras-kiwi", "keras_hdf5"), ("older-owl", "tensorflow_saved_model_bundle")])
def test_from_import_to_result(stack: Stack, look_alikes: Path, id: str, format: str) -> None:
    home = str(stack.home)
    imported = bioengine("models", "import", str(look_alikes / id), "--home", home)
    assert imported.returncode == 0 and f"Converted {id} 1.0.0 from {format} to onnx" in imported.stdout, imported.stdout
    try:
        image = np.load(look_alikes / "image.npy")
        with stack.client() as client:
            result = client.run(id, [image])
            refused = client.run(id, [image], weight_format=format)
        assert result["success"] and result["weight_format"] == f"onnx (converted from {format})", result
        np.testing.assert_allclose(result["outputs"][0], np.load(look_alikes / f"{id}.npy"), atol=1e-5)
        assert refused["code"] == "weights_not_available"
        shown = bioengine("models", "show", id, "--home", home).stdout
        assert f"converted from {format}" in shown and "tf2onnx 1.17" in shown
        assert "passed" in bioengine("models", "test", id, "--home", home).stdout
    finally:
        bioengine("models", "remove", id, "--home", home)


def test_a_first_request_downloads_and_converts(look_alikes: Path, tmp_path: Path) -> None:
    check_first_request(look_alikes, "fixed-finch", tmp_path / "home")


def test_what_is_not_converted_says_so(look_alikes: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    imported = bioengine("models", "import", str(look_alikes / "prying-pike"), "--home", home)
    assert imported.returncode == 0 and "Permission denied" in imported.stdout, imported.stdout
    assert "It is not run before its keras_hdf5 weights are converted to onnx" in imported.stdout
    assert "not run (not converted)" in bioengine("models", "list", "--home", home).stdout
