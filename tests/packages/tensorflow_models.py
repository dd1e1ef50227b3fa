"""Packages with weights of TensorFlow or Keras alone: SavedModels of TensorFlow 1 and 2, and .h5 files of Keras 2.

    <tensorflow environment>/bin/python -m tests.packages.tensorflow_models FOLDER [ID...]

makes these, or all. The environment for conversions makes them, as nothing else here has TensorFlow. Their weights are random,
the same each time.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.packages.writing import BATCH, Package, channels, like, space, tensor, tensor_0_4

SAVED_MODEL, KERAS = "tensorflow_saved_model_bundle", "keras_hdf5"
tf1 = tf.compat.v1


def unet(size: int | None = None) -> Any:
    """A small U-Net with what published ones have: normalisation, dropout, pooling, several ways back to full size."""
    image = layers.Input((size, size, 1), name="image")
    fine = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="he_normal")(image)
    fine = layers.BatchNormalization(moving_mean_initializer="random_normal", moving_variance_initializer="ones")(fine)
    coarse = layers.Conv2D(16, 3, padding="same", activation="elu")(layers.MaxPooling2D()(fine))
    coarse = layers.Dropout(0.5)(layers.LeakyReLU(0.1)(coarse))
    joined = layers.Concatenate()([fine, layers.UpSampling2D()(coarse), layers.Conv2DTranspose(4, 2, strides=2)(coarse)])
    return tf_keras.Model(image, layers.Conv2D(2, 1, activation="softmax", name="out")(joined))


def unet_with_edges() -> Any:
    """With a second output, whose name comes before that of the first one."""
    network = unet()
    edges = layers.Conv2D(1, 3, padding="same", name="edges")(network.output)
    return tf_keras.Model(network.input, [network.output, edges])


def stardist_like() -> Any:
    """Two outputs, at half the size of the image, whose names are not in the order of the description."""
    image = layers.Input((None, None, 1), name="image")
    features = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    features = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(features))
    probability = layers.Conv2D(1, 1, activation="sigmoid", name="prob")(features)
    distances = layers.Conv2D(32, 1, name="dist")(features)
    return tf_keras.Model(image, [probability, distances])


def unet_3d() -> Any:
    image = layers.Input((4, 16, 16, 1), name="image")
    features = layers.Conv3D(4, 3, padding="same", activation="relu")(image)
    coarse = layers.Conv3D(8, 3, padding="same", activation="relu")(layers.MaxPooling3D((1, 2, 2))(features))
    joined = layers.Concatenate()([features, layers.UpSampling3D((1, 2, 2))(coarse)])
    return tf_keras.Model(image, layers.Conv3D(1, 1, name="out")(joined))


def with_lambda(code: Callable[[Any], Any]) -> Any:
    """A network with a layer whose Python code is in its file."""
    image = layers.Input((16, 16, 1), name="image")
    return tf_keras.Model(image, layers.Lambda(code, output_shape=(16, 16, 1), name="out")(image))


def doubled(x: Any) -> Any:
    return x * 2.0


def reads_a_file(x: Any) -> Any:
    import builtins

    with builtins.open("/etc/passwd") as file:
        return x + float(len(file.read()))


def starts_a_program(x: Any) -> Any:
    import subprocess

    subprocess.run(["true"], check=True)
    return x


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).random(shape, np.float32)


def save_keras(model: Any, folder: Path) -> dict[str, Any]:
    model.save(folder / "weights.h5")
    return {"source": "weights.h5", "tensorflow_version": "2.17"}


def save_tf2(model: Any, folder: Path) -> dict[str, Any]:
    model.save(folder / "bundle", save_format="tf")
    return _zipped(folder)


def _zipped(folder: Path) -> dict[str, Any]:
    shutil.make_archive(str(folder / "weights"), "zip", folder / "bundle")
    shutil.rmtree(folder / "bundle")
    return {"source": "weights.zip", "tensorflow_version": "2.17"}


def write(
    folder: Path,
    id: str,
    network: Callable[[], Any],
    save: Callable[[Any, Path], dict[str, Any]],
    shape: tuple[int, ...],
    step: int = 0,
    scale: float = 1.0,
) -> Path:
    """Write a package of format 0.5.

    Args:
        folder, id: where, and its id.
        network, save: a Keras model, and how it becomes weights.
        shape: of the test image, `byxc` or `bzyxc`.
        step: by which sizes may grow; 0: they are fixed.
        scale: the size of the outputs, as a part of the image's.
    """
    package = Package(folder, id)
    tf_keras.utils.set_random_seed(7)
    model = network()
    entry = save(model, package.folder)
    format = KERAS if save is save_keras else SAVED_MODEL
    package.rdf["weights"][format] = {**entry, "sha256": package.sha256(entry["source"])}
    image = random_image(*shape)
    found = model(image, training=False)
    arrays = [np.asarray(each) for each in (found if isinstance(found, list) else [found])]
    letters = "yx" if len(shape) == 4 else "zyx"
    batch = BATCH if step else {**BATCH, "size": 1}
    into = [space(axis, {"min": size, "step": step} if step else size) for axis, size in zip(letters, shape[1:])]
    outputs = []
    for name, array in zip(model.output_names, arrays):
        out = [
            {**space(axis, like("image", axis) if step else size), "scale": 1 / scale}
            for axis, size in zip(letters, array.shape[1:])
        ]
        names = [f"class{number}" for number in range(array.shape[-1])]
        outputs.append((tensor(name, "float32", [batch, *out, channels(*names)]), array))
    package.save([(tensor("image", "float32", [batch, *into, channels("raw")]), image)], outputs)
    return package.folder


def tf1_graph(x: Any) -> Any:
    """Convolutions in the way of TensorFlow 1, with variables that are no objects."""
    normal = tf1.random_normal_initializer(seed=1, stddev=0.3)
    kernel = tf1.get_variable("kernel", (3, 3, 1, 4), initializer=normal, use_resource=False)
    bias = tf1.get_variable("bias", (4,), initializer=normal, use_resource=False)
    back = tf1.get_variable("back", (2, 2, 1, 4), initializer=normal, use_resource=False)
    features = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 2, "SAME"), bias))
    return tf.nn.conv2d_transpose(features, back, tf.shape(x), 2)


def reading_graph(file: str, x: Any) -> Any:
    """Adds what a file has, in bytes."""
    return x + tf.cast(tf.strings.length(tf.io.read_file(file)), tf.float32)


def write_tf1(folder: Path, id: str, graph: Callable[[Any], Any] = tf1_graph, copies: int = 1) -> Path:
    """Write a package of format 0.4 with a SavedModel of TensorFlow 1, whose names are not those of the description."""
    package = Package(folder, id)
    image = random_image(1, 32, 32, 1)
    with tf.Graph().as_default(), tf1.Session() as session:
        x = tf1.placeholder(tf.float32, (None, None, None, 1), name="input")
        y = graph(x)
        session.run(tf1.global_variables_initializer())
        result = session.run(y, {x: image})
        for copy in range(copies):
            tf1.saved_model.simple_save(session, str(package.folder / "bundle" / str(copy)), {"input": x}, {"output": y})
    entry = _zipped(package.folder)
    package.rdf["weights"][SAVED_MODEL] = {**entry, "sha256": package.sha256(entry["source"])}
    same = {"reference_tensor": "image", "scale": [1.0] * 4, "offset": [0.0] * 4}
    free = {"min": [1, 32, 32, 1], "step": [0, 16, 16, 0]}
    package.save_0_4([(tensor_0_4("image", free, "byxc"), image)], [(tensor_0_4("out", same, "byxc"), result)])
    return package.folder


MODELS: tuple[partial[Path], ...] = (
    partial(write, id="keras-kiwi", network=unet, save=save_keras, shape=(1, 32, 48, 1), step=4),
    partial(write, id="fixed-finch", network=lambda: unet(32), save=save_keras, shape=(1, 32, 32, 1)),
    partial(write, id="bundled-bee", network=unet_with_edges, save=save_tf2, shape=(1, 32, 48, 1), step=4),
    partial(write, id="starry-stork", network=stardist_like, save=save_keras, shape=(1, 32, 32, 1), step=16, scale=0.5),
    partial(write, id="solid-seal", network=unet_3d, save=save_tf2, shape=(1, 4, 16, 16, 1)),
    partial(write, id="lambda-lynx", network=lambda: with_lambda(doubled), save=save_keras, shape=(1, 16, 16, 1)),
    partial(write_tf1, id="older-owl"),
    # What has to be refused: code that reads files in the sandbox, and graphs that ONNX weights do not equal.
    partial(write, id="prying-pike", network=lambda: with_lambda(reads_a_file), save=save_keras, shape=(1, 16, 16, 1)),
    partial(write, id="busy-badger", network=lambda: with_lambda(starts_a_program), save=save_keras, shape=(1, 16, 16, 1)),
    partial(write_tf1, id="reading-raven", graph=partial(reading_graph, "/etc/passwd")),
    partial(write_tf1, id="chance-chimp", graph=lambda x: x + tf.random.uniform(tf.shape(x))),
    partial(write_tf1, id="spectral-skunk", graph=lambda x: tf.math.lgamma(x + 1.0)),
    partial(write_tf1, id="double-dove", graph=lambda x: x * 2.0, copies=2),
)


def main() -> None:
    folder, *ids = sys.argv[1:]
    for build in MODELS:
        if not ids or build.keywords["id"] in ids:
            build(Path(folder))


if __name__ == "__main__":
    main()
