"""Read and write PNG files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image as Pillow

from bioengine_server.images.image import Image

CHANNELS = (1, 3)
"""The numbers of channels that a PNG can have here."""

_RGB, _RGBA, _GRAY_ALPHA = 2, 6, 4  # colour types of the PNG specification
_HEADER = 26  # bytes, up to bit depth and colour type


class NotInPng(ValueError):
    """A PNG cannot contain this image."""


def read_png(path: Path) -> Image:
    """Read an image without its transparency. Raises whatever Pillow and imagecodecs raise for damaged files."""
    with open(path, "rb") as file:
        depth, color = file.read(_HEADER)[-2:]
        frames = _frames(file)
    if depth == 16 and color in (_RGB, _RGBA, _GRAY_ALPHA):  # Pillow would read 8 of the 16 bits
        data = imagecodecs.png_decode(path.read_bytes())
        transparent = color != _RGB
        data = data[..., :3] if data.shape[-1] >= 3 else data[..., 0]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # large, and below what Pillow refuses
            with Pillow.open(path, formats=["PNG"]) as file:
                transparent = file.mode in ("RGBA", "LA", "PA") or "transparency" in file.info
                # The numbers of a palette are not intensities, and transparency is not a channel.
                plain = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "LA": "L"}.get(file.mode)
                data = np.asarray(file.convert(plain) if plain else file)
    notes = ["its transparency is left out"] if transparent else []
    if frames > 1:
        notes.append(f"it is a movie of {frames} frames, and its first image was used; save the others as images of their own")
    return Image(np.ascontiguousarray(data), "yxc" if data.ndim == 3 else "yx", notes=tuple(notes))


def _frames(file: BinaryIO) -> int:
    """The number of images in an animated PNG, from its chunk acTL before the first image; 1 for others."""
    file.seek(len(b"\x89PNG\r\n\x1a\n"))
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        if head[4:] == b"acTL":
            return int.from_bytes(file.read(4))
        file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)  # its data and checksum
    return 1


def write_png(file: BinaryIO, image: Image) -> tuple[str, ...]:
    """Write a 2D image, or one with three channels; floats outside of 0 to 1 are clipped.

    Returns sentences about what the PNG does not contain. Raises NotInPng.
    """
    data, notes = _pixels(image)
    Pillow.fromarray(data).save(file, format="PNG")
    return notes


def why_not_png(axes: str, channels: int | None, dtype: str, batch: int) -> str | None:
    """Why results cannot be written as PNG, as far as the model's description says; None if they may fit.

    Args:
        axes, channels, dtype: those of the model's output.
        batch: the number of images that are run at once.
    """
    if set(axes) & set("zti"):
        return "a PNG holds one 2D image"
    if channels not in (None, *CHANNELS):
        return f"a PNG holds one channel or three, but there are {channels}"
    if batch > 1:
        return f"a PNG holds one image, but there are {batch}"
    if dtype and not (dtype in ("bool", "uint8") or dtype.startswith("float") or (dtype == "uint16" and channels != 3)):
        return f"a PNG cannot hold {dtype}"
    return None


def _pixels(image: Image) -> tuple[np.ndarray, tuple[str, ...]]:
    data, axes = image.data, image.axes or ""
    if axes == "cyx" and data.shape[0] == 3:
        data = data.transpose(1, 2, 0)
    elif data.ndim != 2 and not (axes == "yxc" and data.shape[2] == 3):
        raise NotInPng(f"a PNG holds one 2D image, but this has the shape {data.shape}")
    if data.dtype == np.bool_:
        return data.astype(np.uint8) * 255, ()
    if data.dtype.kind == "f":
        return _of_floats(data)
    if data.dtype == np.uint8 or (data.dtype == np.uint16 and data.ndim == 2):
        return np.ascontiguousarray(data), ()
    raise NotInPng(f"a PNG cannot hold {data.dtype.name}")


def _of_floats(data: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    notes = []
    if not (finite := np.isfinite(data)).all():
        lost = data.size - int(finite.sum())
        notes.append(f"{lost} of {data.size} values are NaN or infinite, which a PNG cannot represent: NaN becomes black")
    seen = data[finite]
    if seen.size and (seen.min() < 0 or seen.max() > 1):
        notes.append(
            f"its values are from {seen.min():.4g} to {seen.max():.4g}, but a PNG takes floats as 0 to 1: smaller values become "
            "black, larger ones white"
        )
    if notes:
        notes.append("a .tif or .npy keeps all values")
    pixels = (np.clip(np.nan_to_num(data), 0, 1) * 255).round()
    return np.asarray(pixels, np.uint8), tuple(notes)
