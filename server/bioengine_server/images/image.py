"""An image in memory: its pixels, its axes, and the size of a pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


def rescaled(size: PixelSize, shape: dict[str, int], new_shape: dict[str, int]) -> PixelSize:
    """The pixel size after a change of the number of pixels, for the same field of view."""
    factors = {axis: shape[axis] / new_shape[axis] for axis in "zyx" if shape.get(axis) and new_shape.get(axis)}
    known = {axis: getattr(size, axis) * factor for axis, factor in factors.items() if getattr(size, axis)}
    return replace(size, **known)
