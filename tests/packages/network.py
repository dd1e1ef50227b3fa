"""Small convolutional networks in three forms: as ONNX nodes, as a torch module, and as a NumPy formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper


class Layer(Protocol):
    """A layer of a network on (b, c, *space)."""

    def node(self, input: str, output: str) -> tuple[Any, dict[str, np.ndarray]]:
        """The ONNX node from tensor `input` to `output`, and its constants."""

    def module(self) -> torch.nn.Module: ...

    def __call__(self, image: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Conv:
    """Convolution with a kernel (output channels, input channels, *odd sizes), zeros around the image: sizes stay."""

    kernel: np.ndarray

    def node(self, input: str, output: str) -> tuple[Any, dict[str, np.ndarray]]:
        pads = [size // 2 for size in self.kernel.shape[2:]]
        return helper.make_node("Conv", [input, f"{output}-kernel"], [output], pads=pads * 2), {f"{output}-kernel": self.kernel}

    def module(self) -> torch.nn.Module:
        make = (torch.nn.Conv2d, torch.nn.Conv3d)[self.kernel.ndim - 4]
        outs, ins, *sizes = self.kernel.shape
        module = make(ins, outs, sizes, padding=[size // 2 for size in sizes], bias=False)
        module.weight = torch.nn.Parameter(torch.from_numpy(self.kernel))
        return module

    def __call__(self, image: np.ndarray) -> np.ndarray:
        sizes = self.kernel.shape[2:]
        axes = tuple(range(2, image.ndim))
        padding = [(0, 0), (0, 0), *((size // 2, size // 2) for size in sizes)]
        windows = sliding_window_view(np.pad(image, padding), sizes, axes)  # type: ignore[call-overload,unused-ignore]
        taps = tuple(range(image.ndim, windows.ndim))
        summed = np.tensordot(windows, self.kernel.astype(np.float64), ((1, *taps), (1, *axes)))
        return np.moveaxis(summed, -1, 1)


@dataclass(frozen=True)
class Relu:
    def node(self, input: str, output: str) -> tuple[Any, dict[str, np.ndarray]]:
        return helper.make_node("Relu", [input], [output]), {}

    def module(self) -> torch.nn.Module:
        return torch.nn.ReLU()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return np.maximum(image, 0)


@dataclass(frozen=True)
class Halve:
    """The largest of each 2 x 2 pixels."""

    def node(self, input: str, output: str) -> tuple[Any, dict[str, np.ndarray]]:
        return helper.make_node("MaxPool", [input], [output], kernel_shape=[2, 2], strides=[2, 2]), {}

    def module(self) -> torch.nn.Module:
        return torch.nn.MaxPool2d(2)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        b, c, y, x = image.shape
        return image.reshape(b, c, y // 2, 2, x // 2, 2).max((3, 5))


@dataclass(frozen=True)
class Double:
    """Each pixel as 2 x 2."""

    def node(self, input: str, output: str) -> tuple[Any, dict[str, np.ndarray]]:
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        scales = f"{output}-scales"
        return helper.make_node("Resize", [input, "", scales], [output], **how), {scales: np.array([1, 1, 2, 2], np.float32)}

    def module(self) -> torch.nn.Module:
        return torch.nn.Upsample(scale_factor=2.0, mode="nearest")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image.repeat(2, 2).repeat(2, 3)


@dataclass(frozen=True)
class Network:
    """Layers, one after the other."""

    layers: Sequence[Layer]

    def nodes(self, input: str, output: str) -> tuple[list[Any], dict[str, np.ndarray]]:
        """The ONNX nodes from tensor `input` to `output`, and their constants."""
        names = [input, *(f"{output}-{number}" for number in range(1, len(self.layers))), output]
        made = [layer.node(*ends) for layer, *ends in zip(self.layers, names, names[1:])]
        return [node for node, _ in made], {name: value for _, constants in made for name, value in constants.items()}

    def module(self) -> torch.nn.Module:
        return torch.nn.Sequential(*(layer.module() for layer in self.layers))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """What the network makes of `image`: float32, computed in float64."""
        result = image.astype(np.float64)
        for layer in self.layers:
            result = layer(result)
        return result.astype(np.float32)


def convolutions(seed: int, count: int, side: int = 3, dimensions: int = 2, channels: int = 4) -> Network:
    """`count` convolutions with Relu between them, from one channel to one.

    A pixel of the output sees `count * (side // 2)` pixels of the input each way.

    Args:
        seed: of the kernels.
        side: pixels of a kernel along each spatial axis, odd.
        channels: between the layers.
    """
    random = np.random.default_rng(seed)
    numbers = [1, *[channels] * (count - 1), 1]
    layers: list[Layer] = []
    for before, after in pairwise(numbers):
        kernel = random.normal(0, (2 / (before * side**dimensions)) ** 0.5, (after, before, *[side] * dimensions))
        layers += [Conv(kernel.astype(np.float32)), Relu()]
    return Network(layers[:-1])
