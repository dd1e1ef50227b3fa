"""An image in memory: its pixels, what its axes are, and how large a pixel is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class PixelSize:
    """Size of a pixel, in `unit`s. `y` and `x` along the image, `z` between its planes, `t` between its frames in `time_unit`s;
    None where a file does not say.
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

    `axes`: a letter of t, z, c, y, x for each axis, where the file says so. `notes`: what a person should know about how it was
    read, such as which of several images it is. `name`: of its file.
    """

    data: np.ndarray
    axes: str | None
    pixel_size: PixelSize = PixelSize()
    notes: tuple[str, ...] = ()
    name: str = ""


def rescaled(size: PixelSize, shape: dict[str, int], new_shape: dict[str, int]) -> PixelSize:
    """The pixel size of an image that was made smaller or larger: the same field of view in other numbers of pixels."""
    factors = {axis: shape[axis] / new_shape[axis] for axis in "zyx" if shape.get(axis) and new_shape.get(axis)}
    known = {axis: getattr(size, axis) * factor for axis, factor in factors.items() if getattr(size, axis)}
    return replace(size, **known)
