"""Read and write image files: .npy, .tif (tifffile), .png (Pillow)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image as Pillow

from bioengine_server.errors import UnreadableImage, UnwritableImage

SUFFIXES = (".npy", ".tif", ".tiff", ".png")

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_IMAGEJ_ORDER = "tzcyx"


@dataclass(frozen=True)
class PixelSize:
    """Size of a pixel, in `unit`s. `y` and `x` along the image, `z` between its planes; None where a file does not say."""

    y: float | None = None
    x: float | None = None
    z: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Image:
    """An image as it is in its file. `axes`: a letter of t, z, c, y, x for each axis, where the file says so."""

    data: np.ndarray
    axes: str | None
    pixel_size: PixelSize = PixelSize()


def read_image(path: Path) -> Image:
    """The image in a file. Raises UnreadableImage."""
    try:
        match path.suffix.lower():
            case ".npy":
                return Image(np.load(path, allow_pickle=False), None)
            case ".tif" | ".tiff":
                return _read_tiff(path)
            case ".png":
                return _read_png(path)
    except (OSError, ValueError, SyntaxError, EOFError, tifffile.TiffFileError) as error:
        raise UnreadableImage(path, getattr(error, "strerror", None) or str(error)) from error
    raise UnreadableImage(path, f"files of the kind {path.suffix or '(none)'} are not read; {', '.join(SUFFIXES)} are")


def write_image(path: Path, image: Image) -> None:
    """Write an image, in the format that the file's name says. Raises UnwritableImage.

    TIFF: with the pixel size, readable by Fiji where the dtype is one that Fiji knows. PNG: 2D, or 2D with 3 channels; floats
    are taken as 0 to 1.
    """
    try:
        match path.suffix.lower():
            case ".npy":
                np.save(path, image.data)
            case ".tif" | ".tiff":
                _write_tiff(path, image)
            case ".png":
                Pillow.fromarray(_for_png(path, image)).save(path)
            case _:
                raise UnwritableImage(path, f"expected one of {', '.join(SUFFIXES)}")
    except OSError as error:
        raise UnwritableImage(path, error.strerror or str(error)) from error


def _read_tiff(path: Path) -> Image:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        # tifffile calls an axis of unknown meaning Q or I, and the samples of an RGB pixel S.
        axes = series.axes.lower().replace("s", "c")
        known = axes if set(axes) <= set("tzcyx") and len(set(axes)) == len(axes) else None
        tags, about = file.pages.first.tags, file.imagej_metadata or {}
        size = {}
        for name, tag in (("y", "YResolution"), ("x", "XResolution")):
            if tag in tags and tags[tag].value[0]:
                size[name] = tags[tag].value[1] / tags[tag].value[0]
        unit = about.get("unit") or {2: "inch", 3: "cm"}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0)
        return Image(series.asarray(), known, PixelSize(**size, z=about.get("spacing"), unit=unit))


def _write_tiff(path: Path, image: Image) -> None:
    axes, data, size = image.axes, image.data, image.pixel_size
    options: dict[str, Any] = {}
    if size.x and size.y:
        options["resolution"] = (1 / size.x, 1 / size.y)
        options["resolutionunit"] = {"inch": "INCH", "cm": "CENTIMETER"}.get(size.unit or "", "NONE")
    metadata: dict[str, Any] = {}
    if size.unit:
        metadata["unit"] = size.unit
    if size.z:
        metadata["spacing"] = size.z
    if axes and data.dtype.name in _IMAGEJ_DTYPES and set(axes) <= set(_IMAGEJ_ORDER):
        order = [axes.index(letter) for letter in _IMAGEJ_ORDER if letter in axes]
        data, axes = data.transpose(order), "".join(axes[index] for index in order)
        options["imagej"] = True
    if axes:
        metadata["axes"] = axes.upper()
    tifffile.imwrite(path, np.ascontiguousarray(data), metadata=metadata, photometric="minisblack", **options)


def _read_png(path: Path) -> Image:
    with Pillow.open(path) as file:
        # A palette's numbers are no intensities, and transparency is no channel.
        plain = {"P": "RGB", "RGBA": "RGB", "LA": "L"}.get(file.mode)
        data = np.asarray(file.convert(plain) if plain else file)
    return Image(data, "yxc" if data.ndim == 3 else "yx")


def _for_png(path: Path, image: Image) -> np.ndarray:
    data, axes = image.data, image.axes or ""
    if axes == "cyx" and data.shape[0] == 3:
        data = data.transpose(1, 2, 0)
    elif data.ndim != 2:
        raise UnwritableImage(path, f"a PNG holds one 2D image, and this has the shape {data.shape}; write a .tif or .npy")
    if data.dtype == np.bool_:
        return data.astype(np.uint8) * 255
    if data.dtype.kind == "f":
        return np.asarray((np.clip(np.nan_to_num(data), 0, 1) * 255).round(), np.uint8)
    if data.dtype == np.uint8 or (data.dtype == np.uint16 and data.ndim == 2):
        return data
    raise UnwritableImage(path, f"a PNG holds no {data.dtype.name}; write a .tif or .npy")


def rescaled(size: PixelSize, shape: dict[str, int], new_shape: dict[str, int]) -> PixelSize:
    """The pixel size of an image that was made smaller or larger: the same field of view in other numbers of pixels."""
    factors = {axis: shape[axis] / new_shape[axis] for axis in "zyx" if axis in shape and axis in new_shape}
    known = {axis: getattr(size, axis) * factor for axis, factor in factors.items() if getattr(size, axis)}
    return replace(size, **known)
