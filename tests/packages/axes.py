"""Packages whose axes or dtypes are unusual: no batch axis, the channels last, every dtype, one that is not what comes out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper

from tests.packages.network import convolutions
from tests.packages.sizes import image_of
from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor

DTYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float32 float64".split()
FREE = {"min": 16, "step": 4}


class Unbatched(torch.nn.Module):
    """A network on (b, c, y, x) for one image (y, x)."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image[None, None])[0, 0]


def no_batch(folder: Path) -> None:
    """One image at a time, (y, x)."""
    package = Package(folder, "no-batch")
    network = convolutions(20, 2)
    nodes, constants = network.nodes("batch", "features")
    package.onnx(
        [
            helper.make_node("Unsqueeze", ["image", "axes"], ["batch"]),
            *nodes,
            helper.make_node("Squeeze", ["features", "axes"], ["plain"]),
        ],
        [image_value("image", "y", "x")],
        [image_value("plain", "y", "x")],
        {**constants, "axes": np.array([0, 1], np.int64)},
    )
    package.torchscript(Unbatched(network.module()))
    image = image_of(20, 24, 32)
    package.save(
        [(tensor("image", "float32", [space(id, FREE) for id in "yx"]), image)],
        [
            (
                tensor("plain", "float32", [{**space(id, like("image", id)), "halo": 4} for id in "yx"]),
                network(image[None, None])[0, 0],
            )
        ],
    )


class Mixed(torch.nn.Module):
    """Channels, the last axis, mixed by weights."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(weights))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image @ self.weights


def channels_last(folder: Path, id: str, batch: list[dict[str, Any]]) -> None:
    """Three channels into two, ([batch,] y, x, c)."""
    package = Package(folder, id)
    weights = image_of(21, 3, 2)
    free = ["b"] * len(batch) + ["y", "x"]
    package.onnx(
        [helper.make_node("MatMul", ["image", "weights"], ["mixed"])],
        [image_value("image", *free, 3)],
        [image_value("mixed", *free, 2)],
        {"weights": weights},
    )
    package.torchscript(Mixed(weights))
    image = image_of(22, *[2] * len(batch), 20, 24, 3)
    colours = channels("red", "green", "blue")
    normalize = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}
    normal = (image - image.mean((-3, -2), keepdims=True)) / (image.std((-3, -2), keepdims=True) + 1e-6)
    package.save(
        [(tensor("image", "float32", [*batch, *(space(id, FREE) for id in "yx"), colours], preprocessing=[normalize]), image)],
        [
            (
                tensor("mixed", "float32", [*batch, *(space(id, like("image", id)) for id in "yx"), channels("one", "two")]),
                normal @ weights,
            )
        ],
    )


def every_dtype(folder: Path) -> None:
    """An input and the same again as output in each dtype."""
    package = Package(folder, "every-dtype")
    types = {dtype: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in DTYPES}
    package.onnx(
        [helper.make_node("Identity", [f"in_{dtype}"], [f"out_{dtype}"]) for dtype in DTYPES],
        [image_value(f"in_{dtype}", "b", "y", type=type) for dtype, type in types.items()],
        [image_value(f"out_{dtype}", "b", "y", type=type) for dtype, type in types.items()],
        {},
    )

    values = np.arange(40).reshape(1, 40)
    arrays = {dtype: (values % 2 if dtype == "bool" else values).astype(dtype) for dtype in DTYPES}
    free = {"min": 1, "step": 1}
    package.save(
        [(tensor(f"in_{dtype}", dtype, [BATCH, space("y", free)]), array) for dtype, array in arrays.items()],
        [
            (tensor(f"out_{dtype}", dtype, [BATCH, space("y", like(f"in_{dtype}", "y"))]), array)
            for dtype, array in arrays.items()
        ],
    )


def declared_uint8(folder: Path) -> None:
    """The output's `data` is what the postprocessing does not leave."""
    package = Package(folder, "declared-uint8")
    free = ["b", "y", "x"]
    package.onnx([helper.make_node("Neg", ["image"], ["out"])], [image_value("image", *free)], [image_value("out", *free)], {})
    image = image_of(23, 1, 20, 24)
    steps = [{"id": "scale_linear", "kwargs": {"gain": 0.5}}, {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    package.save(
        [(tensor("image", "float32", [BATCH, *(space(id, FREE) for id in "yx")]), image)],
        [(tensor("out", "uint8", [BATCH, *(space(id, like("image", id)) for id in "yx")], postprocessing=steps), image * -0.5)],
    )


AXES = (
    no_batch,
    partial(channels_last, id="channels-last", batch=[BATCH]),
    partial(channels_last, id="channels-last-no-batch", batch=[]),
    every_dtype,
    declared_uint8,
)
