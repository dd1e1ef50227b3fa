"""Packages with weights of TensorFlow or Keras alone, from their import or download to the result that a client gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conversion import build_tensorflow_packages, check_first_request, needs_tensorflow, run_with_tensorflow
from tests.stack.harness import Stack, bioengine

pytestmark = [pytest.mark.extended, needs_tensorflow]

# What TensorFlow makes of an image, without any of this project's code.
OWN_RESULT = """
import sys, zipfile, numpy as np, tensorflow as tf, tf_keras
package, folder = sys.argv[1:]
image = np.load(folder + "/image.npy")
if (tf.io.gfile.exists(package + "/weights.h5")):
    result = tf_keras.models.load_model(package + "/weights.h5", compile=False).predict(image)
else:
    zipfile.ZipFile(package + "/weights.zip").extractall(folder + "/bundle")
    (found,) = tf.io.gfile.glob(folder + "/bundle/*/saved_model.pb") or tf.io.gfile.glob(folder + "/bundle/saved_model.pb")
    function = tf.saved_model.load(found.rpartition("/")[0], tags=["serve"]).signatures["serving_default"]
    (result,) = function(tf.constant(image)).values()
np.save(folder + "/result.npy", np.asarray(result))
"""


@pytest.fixture(scope="module")
def look_alikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tensorflow_packages(tmp_path_factory.mktemp("tensorflow"))


def own_result(package: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "image.npy", image)
    run_with_tensorflow("-c", OWN_RESULT, str(package), str(folder))
    return np.load(folder / "result.npy")


@pytest.mark.parametrize(("id", "format"), [("keras-kiwi", "keras_hdf5"), ("older-owl", "tensorflow_saved_model_bundle")])
def test_from_import_to_result(stack: Stack, look_alikes: Path, tmp_path: Path, id: str, format: str) -> None:
    home = str(stack.home)
    imported = bioengine("models", "import", str(look_alikes / id), "--home", home)
    assert imported.returncode == 0 and f"Converted {id} 1.0.0 from {format} to onnx" in imported.stdout, imported.stdout
    try:
        image = np.random.default_rng().random((2, 64, 48, 1), np.float32)
        with stack.client() as client:
            result = client.run(id, [image])
            refused = client.run(id, [image], weight_format=format)
        assert result["success"] and result["weight_format"] == f"onnx (converted from {format})", result
        np.testing.assert_allclose(result["outputs"][0], own_result(look_alikes / id, image, tmp_path), atol=1e-5)
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
