"""Convolutional packages of format 0.4."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests.packages.network import convolutions
from tests.packages.sizes import image_of
from tests.packages.writing import EPS, Package, image_value, tensor_0_4

HALO = [0, 0, 8, 8]
FREE = {"min": [1, 1, 32, 32], "step": [0, 0, 4, 4]}
FOLLOWING = {"reference_tensor": "raw", "scale": [1.0, 1.0, 1.0, 1.0], "offset": [0, 0, 0, 0]}


def old(folder: Path, id: str, image: np.ndarray, shape: Any, output: dict[str, Any]) -> None:
    """A package of format 0.4 around three convolutions.

    Args:
        image: the test input, (b, 1, y, x).
        shape: of the input, as in a description.
        output: `shape` and `halo` of the output.
    """
    package = Package(folder, id)
    network = convolutions(30, 3)
    nodes, constants = network.nodes("raw", "out")
    sizes = shape if isinstance(shape, list) else ["b", 1, "y", "x"]
    package.onnx(nodes, [image_value("raw", *sizes)], [image_value("out", *sizes)], constants)
    package.torchscript(network.module())
    package.save_0_4([(tensor_0_4("raw", shape), image)], [(tensor_0_4("out", **output), network(image))])


def old_dtypes(folder: Path) -> None:
    """uint8 is what comes in and what the postprocessing works on; models and results of format 0.4 are float32."""
    package = Package(folder, "old-dtypes")
    free = ["b", 1, "y", "x"]
    package.onnx([helper.make_node("Sqrt", ["raw"], ["out"])], [image_value("raw", *free)], [image_value("out", *free)], {})
    raw = np.random.default_rng(33).integers(0, 200, (1, 1, 32, 40)).astype(np.uint8)
    roots = np.sqrt(raw.astype(np.float32)).astype(np.uint8)
    shift = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "axes": "cyx", "mean": 0.5, "std": 2.0}}
    out = ((roots - 0.5) / (2.0 + EPS)).astype(np.float32)
    package.save_0_4(
        [(tensor_0_4("raw", FREE, dtype="uint8"), raw)],
        [(tensor_0_4("out", FOLLOWING, dtype="uint8", postprocessing=[shift]), out)],
    )


OLD = (
    partial(old, id="old-conv", image=image_of(30, 1, 1, 32, 40), shape=FREE, output={"shape": FOLLOWING, "halo": HALO}),
    partial(old, id="old-fixed", image=image_of(31, 1, 1, 64, 64), shape=[1, 1, 64, 64], output={"shape": [1, 1, 64, 64]}),
    # bioimageio.spec does not convert this one to format 0.5: there a halo needs a size that follows the input's.
    partial(
        old, id="old-fixed-halo", image=image_of(32, 1, 1, 64, 64), shape=[1, 1, 64, 64],
        output={"shape": [1, 1, 64, 64], "halo": HALO},
    ),
    old_dtypes,
)  # fmt: skip
