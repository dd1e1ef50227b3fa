"""Packages for requests of all kinds: optional inputs, channels last, and models that fail when they are run.

Not among all kinds: most of them give no answer, here or with bioimageio.core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper

from tests.packages.network import Halve, Network, convolutions
from tests.packages.sizes import image_of
from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor

FREE = {"min": 8, "step": 1}
GREY = channels("value")


def axes(follows: str | None = None) -> list[dict[str, Any]]:
    return [BATCH, GREY, *(space(id, FREE if follows is None else like(follows, id)) for id in "yx")]


class Sum(torch.nn.Module):
    def forward(self, raw: torch.Tensor, mask: torch.Tensor | None = None, extra: torch.Tensor | None = None) -> torch.Tensor:
        result = raw + 1.0 if mask is None else raw + mask
        return result + 10.0 if extra is None else result + extra


def optional_inputs(folder: Path) -> None:
    """raw + 2 mask + the normalized extra; 1 and 10 stand for what is left out."""
    package = Package(folder, "optional-inputs")
    package.torchscript(Sum())
    package.onnx(
        [helper.make_node("Add", ["raw", "mask"], ["both"]), helper.make_node("Add", ["both", "extra"], ["sum"])],
        [
            image_value("raw", "b", 1, "y", "x"),
            *(image_value(id, f"{id}_b", 1, f"{id}_y", f"{id}_x") for id in ("mask", "extra")),
        ],
        [image_value("sum", "b", 1, "y", "x")],
        {"mask": np.full((1, 1, 1, 1), 1, np.float32), "extra": np.full((1, 1, 1, 1), 10, np.float32)},
    )
    raw, mask, extra = (image_of(seed, 1, 1, 20, 24) for seed in (40, 41, 42))
    double = {"id": "scale_linear", "kwargs": {"gain": 2.0}}
    normalize = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}
    normal = (extra - extra.mean()) / (extra.std() + 1e-6)
    package.save(
        [
            (tensor("raw", "float32", axes()), raw),
            (tensor("mask", "float32", axes("raw"), optional=True, preprocessing=[double]), mask),
            (tensor("extra", "float32", axes("raw"), optional=True, preprocessing=[normalize]), extra),
        ],
        [(tensor("sum", "float32", axes("raw")), raw + 2 * mask + normal)],
    )


def grey_last(folder: Path) -> None:
    """One channel, the last axis, as models of Keras have it."""
    package = Package(folder, "grey-last")
    package.onnx(
        [helper.make_node("Neg", ["image"], ["out"])],
        [image_value("image", "b", "y", "x", 1)],
        [image_value("out", "b", "y", "x", 1)],
        {},
    )
    image = image_of(43, 1, 20, 24, 1)
    sizes, same = [space(id, FREE) for id in "yx"], [space(id, like("image", id)) for id in "yx"]
    package.save([(tensor("image", "float32", [BATCH, *sizes, GREY]), image)],
                 [(tensor("out", "float32", [BATCH, *same, GREY]), -image)])  # fmt: skip


def _identity(folder: Path, id: str, sizes: list[Any], **more: Any) -> None:
    """What comes in, by ONNX weights that take `sizes`; `more` is of the description of the output."""
    package = Package(folder, id)
    nodes = [helper.make_node("Identity", ["image"], ["out"])]
    package.onnx(nodes, [image_value("image", *sizes)], [image_value("out", *sizes)], {})
    image = image_of(44, 1, 1, 32, 32)
    package.save([(tensor("image", "float32", axes()), image)], [(tensor("out", "float32", axes("image"), **more), image)])


def fixed_in_onnx(folder: Path) -> None:
    """Takes images of 32 x 32 only, and the description says nothing of it."""
    _identity(folder, "fixed-in-onnx", ["b", 1, 32, 32])


def binarized_by_channel(folder: Path) -> None:
    package = Package(folder, "binarized-by-channel")
    colours = channels("one", "two")
    sizes, same = [space(id, FREE) for id in "yx"], [space(id, like("image", id)) for id in "yx"]
    binarize = {"id": "binarize", "kwargs": {"threshold": [0.2, 0.7], "axis": "channel"}}
    steps = [binarize, {"id": "ensure_dtype", "kwargs": {"dtype": "uint8"}}]
    values = [image_value(id, "b", 2, "y", "x") for id in ("image", "out")]
    package.onnx([helper.make_node("Identity", ["image"], ["out"])], values[:1], values[1:], {})
    image = image_of(45, 1, 2, 20, 24)
    package.save(
        [(tensor("image", "float32", [BATCH, colours, *sizes]), image)],
        [
            (
                tensor("out", "uint8", [BATCH, colours, *same], postprocessing=steps),
                (image > np.array([0.2, 0.7]).reshape(2, 1, 1)).astype(np.uint8),
            )
        ],
    )


def scaled_like_input(folder: Path) -> None:
    kwargs = {"reference_tensor": "image", "axes": ["channel", "y", "x"]}
    _identity(folder, "scaled-like-input", ["b", 1, "y", "x"], postprocessing=[{"id": "scale_mean_variance", "kwargs": kwargs}])


class Named(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": image}


class Same(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def _of_torch(folder: Path, id: str, module: torch.nn.Module, outputs: tuple[str, ...]) -> None:
    package = Package(folder, id)
    package.torchscript(module)
    image = image_of(46, 1, 1, 20, 24)
    package.save(
        [(tensor("image", "float32", axes()), image)], [(tensor(name, "float32", axes("image")), image) for name in outputs]
    )


def dict_result(folder: Path) -> None:
    _of_torch(folder, "dict-result", Named(), ("out",))


def one_of_two(folder: Path) -> None:
    """The weights make one output, and the description has two."""
    _of_torch(folder, "one-of-two", Same(), ("out", "other"))


def square_root(folder: Path) -> None:
    """NaN where a pixel is below 0."""
    package = Package(folder, "square-root")
    values = [image_value(id, "b", 1, "y", "x") for id in ("image", "root")]
    package.onnx([helper.make_node("Sqrt", ["image"], ["root"])], values[:1], values[1:], {})
    image = np.abs(image_of(47, 1, 1, 20, 24))
    package.save([(tensor("image", "float32", axes()), image)], [(tensor("root", "float32", axes("image")), np.sqrt(image))])


def image_and_score(folder: Path) -> None:
    """Takes images of 48 x 48 only, and gives an image, half of it, and its mean, which cannot be put together from tiles."""
    package = Package(folder, "image-and-score")
    network = convolutions(48, 2)
    nodes, constants = network.nodes("image", "features")
    pooled = [
        helper.make_node("MaxPool", ["image"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceMean", ["image"], ["score"], axes=[2, 3], keepdims=0),
    ]
    package.onnx(
        [*nodes, *pooled],
        [image_value("image", "b", 1, 48, 48)],
        [image_value("features", "b", 1, 48, 48), image_value("small", "b", 1, 24, 24), image_value("score", "b", 1)],
        constants,
    )
    image = image_of(48, 1, 1, 48, 48)
    first = [BATCH, GREY]
    halved = Network([Halve()])(image)
    package.save(
        [(tensor("image", "float32", [*first, *(space(id, 48) for id in "yx")]), image)],
        [
            (tensor("features", "float32", [*first, *(space(id, like("image", id)) for id in "yx")]), network(image)),
            (tensor("small", "float32", [*first, *({**space(id, like("image", id)), "scale": 2} for id in "yx")]), halved),
            (tensor("score", "float32", first), image.mean((2, 3))),
        ],
    )


REQUESTS = (
    optional_inputs,
    grey_last,
    fixed_in_onnx,
    binarized_by_channel,
    scaled_like_input,
    dict_result,
    one_of_two,
    square_root,
    image_and_score,
)
