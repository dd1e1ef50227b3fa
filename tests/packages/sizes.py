"""Convolutional packages of format 0.5: sizes, halos and scales of many kinds, in two and three dimensions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper

from tests.packages.network import Double, Halve, Network, convolutions
from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor

NORMALIZE = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}


def image_of(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def convolutional(
    folder: Path,
    id: str,
    network: Network,
    image: np.ndarray,
    size: Any,
    halo: int,
    scale: float = 1,
    batch: int | None = None,
) -> None:
    """A package around a network with one image in and one out.

    Args:
        image: the test input, (b, 1, [z,] y, x).
        size: of the spatial axes of the input, as in a description.
        halo: pixels of the output to crop on each side.
        scale: output pixels for each input pixel.
        batch: 1 where the model takes one sample only.
    """
    package = Package(folder, id)
    ids = "zyx"[5 - image.ndim :]
    first = {**BATCH, **({} if batch is None else {"size": batch})}
    nodes, constants = network.nodes("image", "features")
    sizes = [batch or "b", 1, *([size] * len(ids) if isinstance(size, int) else ids)]
    outs = [batch or "b", 1, *([size] * len(ids) if isinstance(size, int) else map("out_{}".format, ids))]
    package.onnx(nodes, [image_value("image", *sizes)], [image_value("features", *outs)], constants)
    package.torchscript(network.module())
    scales = {} if scale == 1 else {"scale": 1 / scale}
    following = [{**space(id, like("image", id)), "halo": halo, **scales} for id in ids]
    package.save(
        [(tensor("image", "float32", [first, channels("value"), *(space(id, size) for id in ids)]), image)],
        [(tensor("features", "float32", [first, channels("feature"), *following]), network(image))],
    )


def normalized(folder: Path, id: str, dtype: str) -> None:
    """Integers that are normalized, then a network whose halo is enough."""
    package = Package(folder, id)
    network = convolutions(7, 3)
    image = np.random.default_rng(7).integers(0, np.iinfo(dtype).max, (1, 1, 40, 48)).astype(dtype)
    nodes, constants = network.nodes("image", "features")
    package.onnx(nodes, [image_value("image", "b", 1, "y", "x")], [image_value("features", "b", 1, "y", "x")], constants)
    package.torchscript(network.module())
    steps = [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        NORMALIZE,
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
    ]
    size = {"min": 32, "step": 4}
    following = [{**space(id, like("image", id)), "halo": 8} for id in "yx"]
    normal = (image - image.mean()) / (image.std() + 1e-6)
    package.save(
        [(tensor("image", dtype, [BATCH, channels("value"), *(space(id, size) for id in "yx")], preprocessing=steps), image)],
        [(tensor("features", "float32", [BATCH, channels("feature"), *following]), network(normal))],
    )


class OfSumAndProduct(torch.nn.Module):
    """One network on the sum of two images, another on their product."""

    def __init__(self, of_sum: torch.nn.Module, of_product: torch.nn.Module) -> None:
        super().__init__()
        self.of_sum, self.of_product = of_sum, of_product

    def forward(self, image: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of_sum(image + other), self.of_product(image * other)


def two_images(folder: Path) -> None:
    """Two images of the same size in, two out, the second half as large."""
    package = Package(folder, "two-images")
    of_sum, of_product = convolutions(8, 2), Network([*convolutions(9, 2).layers, Halve()])
    (sum_nodes, sum_constants), (product_nodes, product_constants) = (
        of_sum.nodes("sum", "large"),
        of_product.nodes("product", "small"),
    )
    both = [helper.make_node(operator, ["image", "other"], [name]) for operator, name in (("Add", "sum"), ("Mul", "product"))]
    package.onnx(
        [*both, *sum_nodes, *product_nodes],
        [image_value(name, "b", 1, "y", "x") for name in ("image", "other")],
        [image_value("large", "b", 1, "y", "x"), image_value("small", "b", 1, "small_y", "small_x")],
        {**sum_constants, **product_constants},
    )
    package.torchscript(OfSumAndProduct(of_sum.module(), of_product.module()))
    image, other = image_of(8, 1, 1, 32, 48), image_of(9, 1, 1, 32, 48)
    size = {"min": 32, "step": 8}

    def axes(channel: str, **more: Any) -> list[dict[str, Any]]:
        return [BATCH, channels(channel), *({**space(id, like("image", id)), **more} for id in "yx")]

    package.save(
        [
            (tensor("image", "float32", [BATCH, channels("value"), *(space(id, size) for id in "yx")]), image),
            (tensor("other", "float32", axes("value")), other),
        ],
        [
            (tensor("large", "float32", axes("feature", halo=4)), of_sum(image + other)),
            (tensor("small", "float32", axes("feature", halo=2, scale=2)), of_product(image * other)),
        ],
    )


FREE = {"min": 32, "step": 4}
ONE_CHANNEL = convolutions(1, 3)

SIZES = (
    # The receptive field reaches 3 pixels each way, then 12.
    partial(convolutional, id="conv-2d", network=ONE_CHANNEL, image=image_of(1, 2, 1, 40, 48), size=FREE, halo=8),
    partial(
        convolutional, id="conv-2d-far", network=convolutions(2, 2, side=13), image=image_of(2, 1, 1, 40, 48), size=FREE, halo=8
    ),
    partial(convolutional, id="conv-2d-fixed", network=ONE_CHANNEL, image=image_of(3, 1, 1, 64, 64), size=64, halo=8, batch=1),
    partial(
        convolutional, id="conv-3d", network=convolutions(4, 2, dimensions=3), image=image_of(4, 1, 1, 16, 20, 24),
        size={"min": 16, "step": 4}, halo=4,
    ),
    partial(
        convolutional, id="conv-half", network=Network([*ONE_CHANNEL.layers, Halve()]), image=image_of(5, 1, 1, 32, 40),
        size=FREE, halo=4, scale=0.5,
    ),
    partial(
        convolutional, id="conv-double", network=Network([*ONE_CHANNEL.layers, Double()]), image=image_of(6, 1, 1, 32, 40),
        size=FREE, halo=8, scale=2,
    ),
    partial(normalized, id="conv-2d-uint8", dtype="uint8"),
    partial(normalized, id="conv-2d-uint16", dtype="uint16"),
    two_images,
)  # fmt: skip
