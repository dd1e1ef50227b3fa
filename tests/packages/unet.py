"""U-Nets (Ronneberger et al. 2015) of the usual size in a file of a few kilobytes: their weights are a formula.

ONNX Runtime computes them when it opens the file, and then has the network as any other.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch.nn import functional

from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor

_FACTOR, _OFFSET, _MODULUS = 7919, 104_729, 9973


class UNet:
    """Two convolutions of 3 and a ReLU at each level, halved and doubled between them; one channel in, a probability out."""

    def __init__(self, dimensions: int, features: int, levels: int) -> None:
        """
        Args:
            dimensions: 2 or 3.
            features: of the first level; each further one has twice as many.
            levels: how many times the image is halved.
        """
        self.dimensions = dimensions
        self._features = [features << level for level in range(levels + 1)]
        self._kernels = 0

    def nodes(self) -> tuple[list[Any], dict[str, np.ndarray]]:
        """ONNX nodes from `image` to `probability`, and their constants."""
        graph = _Graph(self.dimensions)
        self._kernels = 0
        graph.nodes.append(helper.make_node("Sigmoid", [self._through(graph, "image")], ["probability"]))
        return graph.nodes, graph.constants

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The same by PyTorch."""
        self._kernels = 0
        with torch.no_grad():
            return np.asarray(torch.sigmoid(self._through(_Torch(self.dimensions), torch.from_numpy(image))).numpy())

    def _through(self, with_: Any, x: Any) -> Any:
        above, channels = [], 1
        for features in self._features:
            if channels > 1:
                x = with_.halve(x)
            x, channels = self._twice(with_, x, channels, features), features
            above.append(x)
        for features, skipped in zip(self._features[-2::-1], above[-2::-1]):
            x = with_.double(x, self._kernel((channels, features, *[2] * self.dimensions), channels))
            x, channels = self._twice(with_, with_.join(skipped, x), 2 * features, features), features
        return with_.convolve(x, self._kernel((1, channels, *[1] * self.dimensions), channels))

    def _twice(self, with_: Any, x: Any, channels: int, features: int) -> Any:
        for ins in (channels, features):
            shape = (features, ins, *[3] * self.dimensions)
            x = with_.rectify(with_.convolve(x, self._kernel(shape, ins * 3**self.dimensions)))
        return x

    def _kernel(self, shape: tuple[int, ...], fan_in: int) -> tuple[int, tuple[int, ...], np.float32]:
        """Number, shape and scale (He et al. 2015) of the next kernel."""
        self._kernels += 1
        return self._kernels, shape, np.float32(math.sqrt(24 / fan_in))


class _Torch:
    def __init__(self, dimensions: int) -> None:
        name = f"{dimensions}d"
        self._convolve, self._transposed = getattr(functional, f"conv{name}"), getattr(functional, f"conv_transpose{name}")
        self.halve = lambda x: getattr(functional, f"max_pool{name}")(x, 2)
        self.rectify = torch.relu

    def convolve(self, x: torch.Tensor, kernel: Any) -> torch.Tensor:
        return self._convolve(x, self._weights(*kernel), padding=kernel[1][-1] // 2)

    def double(self, x: torch.Tensor, kernel: Any) -> torch.Tensor:
        return self._transposed(x, self._weights(*kernel), stride=2)

    def join(self, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.cat(tensors, 1)

    def _weights(self, number: int, shape: tuple[int, ...], scale: np.float32) -> torch.Tensor:
        mixed = (np.arange(math.prod(shape), dtype=np.int64) * _FACTOR + number * _OFFSET) % _MODULUS
        even = mixed.astype(np.float32) * np.float32(1 / _MODULUS) - np.float32(0.5)
        return torch.from_numpy((even * scale).reshape(shape))


class _Graph:
    def __init__(self, dimensions: int) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._dimensions = dimensions

    def convolve(self, x: str, kernel: Any) -> str:
        return self._node("Conv", x, self._weights(*kernel), pads=[kernel[1][-1] // 2] * 2 * self._dimensions)

    def double(self, x: str, kernel: Any) -> str:
        return self._node("ConvTranspose", x, self._weights(*kernel), strides=[2] * self._dimensions)

    def halve(self, x: str) -> str:
        two = [2] * self._dimensions
        return self._node("MaxPool", x, kernel_shape=two, strides=two)

    def rectify(self, x: str) -> str:
        return self._node("Relu", x)

    def join(self, *tensors: str) -> str:
        return self._node("Concat", *tensors, axis=1)

    def _weights(self, number: int, shape: tuple[int, ...], scale: np.float32) -> str:
        size = math.prod(shape)
        counted = self._node("Range", *(self._constant(np.int64(value)) for value in (0, size, 1)))
        mixed = self._node("Mul", counted, self._constant(np.int64(_FACTOR)))
        mixed = self._node("Add", mixed, self._constant(np.int64(number * _OFFSET)))
        mixed = self._node("Mod", mixed, self._constant(np.int64(_MODULUS)))
        even = self._node("Mul", self._node("Cast", mixed, to=1), self._constant(np.float32(1 / _MODULUS)))
        even = self._node("Sub", even, self._constant(np.float32(0.5)))
        return self._node("Reshape", self._node("Mul", even, self._constant(scale)), self._constant(np.array(shape, np.int64)))

    def _constant(self, value: Any) -> str:
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def unet(folder: Path, id: str, network: UNet, image: np.ndarray, size: Any, halo: int) -> None:
    """A package around a U-Net.

    Args:
        image: the test input, (b, 1, [z,] y, x).
        size: of the spatial axes, as in a description.
        halo: pixels of the output to crop on each side; 0 declares none.
    """
    package = Package(folder, id)
    package.rdf["description"] = "A U-Net of the usual size whose weights are a formula, for `bioengine bench`."
    ids = "zyx"[3 - network.dimensions :]
    nodes, constants = network.nodes()
    values = [image_value(name, "b", 1, *ids) for name in ("image", "probability")]
    package.onnx(nodes, values[:1], values[1:], constants)
    following = [{**space(id, like("image", id)), **({"halo": halo} if halo else {})} for id in ids]
    package.save(
        [(tensor("image", "float32", [BATCH, channels("value"), *(space(id, size) for id in ids)]), image)],
        [(tensor("probability", "float32", [BATCH, channels("nucleus"), *following]), network(image))],
    )
