"""An image in memory: its pixels, its axes, and the size of a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True)
class PixelSize:
    """The size of a pixel. `y`, `x` and `z` (between planes) are in `unit`s, `t` (between frames) is in `time_unit`s; None where
    the file does not have it.
    """

    y: float | None = None
    x: float | None = None
    z: float | None = None
    unit: str | None = None
    t: float | None = None
    time_unit: str | None = None


@dataclass(frozen=True)
class Image:
    """An image as it is in its file.

    `axes`: a letter of t, z, c, y, x for each axis, if the file has them. `notes`: what the user should know about how the image
    was read, such as which one of several it is. `name`: the file's name.
    """

    data: np.ndarray
    axes: str | None
    pixel_size: PixelSize = PixelSize()
    notes: tuple[str, ...] = ()
    name: str = ""


def rescaled(
    size: PixelSize, shape: dict[str, int], new_shape: dict[str, int], scales: Mapping[str, float] = MappingProxyType({})
) -> PixelSize:
    """The pixel size after a change of the number of pixels: by `scales`, else for the same field of view.

    An image that only lacks pixels at its ends has pixels of the same size.
    """
    factors = {
        axis: 1 / scales[axis] if axis in scales else shape[axis] / new_shape[axis]
        for axis in "zyx"
        if shape.get(axis) and new_shape.get(axis)
    }
    known = {axis: getattr(size, axis) * factor for axis, factor in factors.items() if getattr(size, axis)}
    return replace(size, **known)
