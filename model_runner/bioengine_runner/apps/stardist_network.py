"""A StarDist network as ONNX: opened, and run on images of any size, in tiles where they are large.

The file may come from StarDist's own export or from another one: its input has one channel, last (Keras) or first (PyTorch); its
outputs are the object probabilities and the distances along the rays, as two tensors, or as one with the probabilities first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioengine_runner.apps.errors import AppWeightsRefused
from bioengine_runner.apps.onnx_network import open_network
from bioengine_runner.labels.stardist import StarDistOptions
from bioengine_runner.reasons import in_short
from bioengine_runner.tiling.spans import Span, spans

NETWORK, OPTIONS = "network.onnx", "stardist.json"

# StarDist's U-Nets take multiples of 2^depth times the grid: this is one of those up to a depth of 5 with a grid of 2.
_STEP = 64
# Pixels along an axis that go through the network at once, and that are not kept at a cut: StarDist's U-Net of depth 3 sees 94.
_BLOCK, _HALO = 1024, 96
_SAMPLE = 128  # pixels of the image on which a network is tried

_EXPECTED = "an ONNX file of a 2D StarDist network for images with one channel"


@dataclass(frozen=True)
class _Axis:
    """Sizes that the network takes along y or x: `block` alone, or, if `is_free`, all multiples of `_STEP`."""

    block: int
    is_free: bool

    def padded(self, size: int) -> int:
        """The smallest size that can be cut into tiles and is not smaller than `size`."""
        if not self.is_free:
            return self.block + math.ceil(max(size - self.block, 0) / _STEP) * _STEP
        return max(math.ceil(size / _STEP), 1) * _STEP

    def spans(self, size: int) -> list[Span]:
        block = self.block if not self.is_free else min(self.block, size)
        return spans(size, block, min(_HALO, block // 4), _STEP if self.is_free else 16)


class StarDistNetwork:
    """An opened network. It computes on the CPU."""

    def __init__(self, file: Path) -> None:
        """Open a network and run it once. Raises AppWeightsRefused."""
        try:
            self._session = open_network(file)
        except Exception as error:
            raise AppWeightsRefused(file, "StarDist", f"ONNX Runtime cannot open it ({in_short(error)})", _EXPECTED) from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or 1 not in (shape[1], shape[3]) or inputs[0].type != "tensor(float)":
            found = "; ".join(f"{spec.name}: {spec.type} {spec.shape}" for spec in inputs)
            raise AppWeightsRefused(file, "StarDist", f"its input is {found[:200]}", _EXPECTED)
        self._name, self._channel_first = inputs[0].name, shape[3] != 1
        sizes = shape[2:4] if self._channel_first else shape[1:3]
        self._axes = [_Axis(size, False) if isinstance(size, int) else _Axis(_BLOCK, True) for size in sizes]
        try:
            prediction = self.predict(np.zeros((_SAMPLE, _SAMPLE), np.float32))
        except Exception as error:
            raise AppWeightsRefused(file, "StarDist", f"it cannot be run ({in_short(error)})", _EXPECTED) from error
        steps = [_SAMPLE / size for size in prediction.shape[:2]]
        if prediction.shape[2] < 4 or any(step not in (1, 2, 4, 8) for step in steps):
            problem = (
                f"it gives {prediction.shape} for an image of {_SAMPLE}x{_SAMPLE}: at least 3 rays, and a grid of 1, 2, 4 or 8"
            )
            raise AppWeightsRefused(file, "StarDist", f"{problem} are needed", _EXPECTED)
        self.output_grid = (int(steps[0]), int(steps[1]))
        """How many pixels of the image one position of the output stands for, along y and x."""

    def predict(self, image: np.ndarray) -> np.ndarray:
        """The network's output for an image: float32, (y, x, 1 + rays).

        Args:
            image: float32, (y, x), normalized.

        Raises what ONNX Runtime raises.
        """
        height, width = (axis.padded(size) for axis, size in zip(self._axes, image.shape))
        padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1])), mode="symmetric")
        whole: np.ndarray | None = None
        for y, x in self._tiles(height, width):
            tile = self._forward(padded[y.start : y.stop, x.start : x.stop])
            grid = ((y.stop - y.start) // tile.shape[0], (x.stop - x.start) // tile.shape[1])
            if whole is None:
                whole = np.empty((height // grid[0], width // grid[1], tile.shape[2]), np.float32)
            kept = [slice((s.keep_start - s.start) // g, (s.keep_stop - s.start) // g) for s, g in zip((y, x), grid)]
            place = [slice(s.keep_start // g, s.keep_stop // g) for s, g in zip((y, x), grid)]
            whole[place[0], place[1]] = tile[kept[0], kept[1]]
        assert whole is not None
        cells = [math.ceil(size / (padding // cells)) for size, padding, cells in zip(image.shape, (height, width), whole.shape)]
        return whole[: cells[0], : cells[1]]

    def _tiles(self, height: int, width: int) -> Iterator[tuple[Span, Span]]:
        rows, columns = self._axes[0].spans(height), self._axes[1].spans(width)
        yield from ((row, column) for row in rows for column in columns)

    def _forward(self, tile: np.ndarray) -> np.ndarray:
        given = tile[np.newaxis, np.newaxis] if self._channel_first else tile[np.newaxis, ..., np.newaxis]
        outputs: list[Any] = self._session.run(None, {self._name: np.ascontiguousarray(given, np.float32)})
        images = [np.moveaxis(output[0], 0, -1) if self._channel_first else output[0] for output in outputs]
        # Two outputs: the one with a single channel are the probabilities.
        return np.concatenate(sorted(images, key=lambda image: image.shape[-1]), axis=-1)


def open_stardist(folder: Path) -> tuple[StarDistNetwork, StarDistOptions]:
    """A network and its usual options, of the files `network.onnx` and `stardist.json` in `folder`. Raises AppWeightsRefused.

    `stardist.json` has what is known of `prob_thresh`, `nms_thresh` and `grid`.
    """
    network = StarDistNetwork(folder / NETWORK)
    known = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    grid = tuple(known.get("grid", network.output_grid))
    if network.output_grid not in ((1, 1), grid):
        raise AppWeightsRefused(
            folder / NETWORK, "StarDist", f"its grid is {network.output_grid}, but its description says {grid}", "that both agree"
        )
    return network, StarDistOptions(**{**known, "grid": grid})
