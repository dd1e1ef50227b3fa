"""A small transformer for images of one size: each of its pixels depends on all pixels of its tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor

_PATCH, _FEATURES = 8, 16


def transformer(folder: Path, id: str, image: np.ndarray) -> None:
    """Patches of 8 x 8 pixels as tokens, one layer of attention among all of them, and the patches again. No halo is declared.

    Args:
        image: the test input, (1, 1, n, n) with n a multiple of 8, the only size that the model takes.
    """
    package = Package(folder, id)
    side = image.shape[-1]
    random = np.random.default_rng(60)
    into, out = (
        random.normal(0, 0.2, shape).astype(np.float32)
        for shape in ((_FEATURES, 1, _PATCH, _PATCH), (_FEATURES, 1, _PATCH, _PATCH))
    )
    tokens = (side // _PATCH) ** 2
    constants: dict[str, np.ndarray] = {
        "into": into,
        "out": out,
        "flat": np.array([1, _FEATURES, tokens], np.int64),
        "square": np.array([1, _FEATURES, side // _PATCH, side // _PATCH], np.int64),
    }
    strides = [_PATCH, _PATCH]
    nodes = [
        helper.make_node("Conv", ["image", "into"], ["patches"], strides=strides),
        helper.make_node("Reshape", ["patches", "flat"], ["tokens"]),
        helper.make_node("Transpose", ["tokens"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["turned", "tokens"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=1),
        helper.make_node("MatMul", ["tokens", "attention"], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "square"], ["mixed patches"]),
        helper.make_node("ConvTranspose", ["mixed patches", "out"], ["features"], strides=strides),
    ]
    values = [image_value(name, 1, 1, side, side) for name in ("image", "features")]
    package.onnx(nodes, values[:1], values[1:], constants)
    one = {**BATCH, "size": 1}
    package.save(
        [(tensor("image", "float32", [one, channels("value"), *(space(id, side) for id in "yx")]), image)],
        [
            (
                tensor("features", "float32", [one, channels("feature"), *(space(id, like("image", id)) for id in "yx")]),
                _result(image, into, out),
            )
        ],
    )


def _result(image: np.ndarray, into: np.ndarray, out: np.ndarray) -> np.ndarray:
    side = image.shape[-1] // _PATCH
    patches = image.reshape(side, _PATCH, side, _PATCH).transpose(0, 2, 1, 3).reshape(side * side, _PATCH * _PATCH)
    tokens = patches.astype(np.float64) @ into.reshape(_FEATURES, -1).T
    scores = tokens @ tokens.T
    attention = np.exp(scores - scores.max(0))
    mixed = (attention / attention.sum(0)).T @ tokens
    made = (mixed @ out.reshape(_FEATURES, -1)).reshape(side, side, _PATCH, _PATCH).transpose(0, 2, 1, 3)
    return made.reshape(image.shape).astype(np.float32)
