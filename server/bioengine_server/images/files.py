"""Read and write files of images and tables: .npy, .tif (tifffile), .png (Pillow), .csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from bioengine_contract.errors import BioEngineError
from PIL import Image as Pillow

from bioengine_server.images.errors import UnfitFormat, UnreadableImage, UnwritableImage
from bioengine_server.images.image import Image
from bioengine_server.images.png import NotInPng, read_png, write_png
from bioengine_server.images.tiff import NoSuchImage, read_tiff, write_tiff
from bioengine_server.output_file import output_file
from bioengine_server.untrusted import shown

SUFFIXES = (".npy", ".tif", ".png")
"""Of files that are read; .tiff is .tif."""

IMAGE_FORMATS = (".tif", ".npy", ".png")
"""Of results that have pixels; .tiff is .tif."""

TABLE_FORMATS = (".csv", ".npy")
"""Of results that have none."""

FORMATS = tuple(dict.fromkeys((*IMAGE_FORMATS, *TABLE_FORMATS)))


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for: in lower case, and .tif for .tiff."""
    suffix = path.suffix.lower()
    return ".tif" if suffix == ".tiff" else suffix


_BEGINNINGS = {
    b"\x89PNG": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "NumPy",
    b"\xff\xd8\xff": "JPEG",
    b"PK\x03\x04": "zip",
    b"GIF8": "GIF",
    b"BM": "BMP",
}
_KINDS = {".npy": "NumPy", ".tif": "TIFF", ".png": "PNG"}
_RENAMED = {"NumPy": ".npy", "TIFF": ".tif", "PNG": ".png"}


def read_image(path: Path, series: int | None = None) -> Image:
    """The image in a file. Raises UnreadableImage.

    Args:
        path: the file.
        series: the number of the image in a TIFF, from 1; None for the largest.
    """
    suffix = format_of(path)
    if path.is_dir():
        raise UnreadableImage(path, f"it is a folder; name the files in it, such as {shown(path, 300)}/*.tif")
    if suffix not in SUFFIXES:
        raise UnreadableImage(path, f"files of the kind {suffix or '(none)'} are not read; {', '.join(SUFFIXES)} are")
    try:
        _check_beginning(path, _KINDS[suffix])
        if suffix == ".tif":
            image = read_tiff(path, series)
        elif series not in (None, 1):
            raise NoSuchImage(f"it has one image, so there is no --series {series}")
        else:
            image = read_png(path) if suffix == ".png" else _read_npy(path)
    except UnreadableImage:
        raise
    except Exception as error:  # what decoders raise for files that anybody made: struct.error, KeyError, zlib.error, ...
        raise UnreadableImage(path, _reason(error)) from error
    if image.data.dtype.kind not in "biuf":
        raise UnreadableImage(path, f"its values are {image.data.dtype.name}; whole and real numbers are read")
    if image.data.size == 0:
        raise UnreadableImage(path, f"it is empty: its shape is {image.data.shape}")
    return replace(image, name=path.name)


def write_image(path: Path, image: Image, overwrite: bool = False) -> tuple[str, ...]:
    """Write an image or a table in the format of the file's suffix. If writing fails, there is no file.

    TIFF contains the pixel size, and Fiji can read it if it knows the dtype. PNG can be 2D, or 2D with 3 channels; floats
    outside of 0 to 1 are clipped. CSV has a row for each sample.

    Returns sentences about what the file does not contain of the image. Raises UnwritableImage (UnfitFormat), OutputExists.
    """
    suffix = format_of(path)
    if suffix not in FORMATS:
        raise UnwritableImage(path, f"expected one of {', '.join(FORMATS)}")
    try:
        with output_file(path, overwrite) as file:
            if suffix == ".png":
                return write_png(file, image)
            if suffix == ".npy":
                np.save(file, image.data)
            elif suffix == ".csv":
                _write_csv(file, image)
            else:
                return write_tiff(file, image)
    except BioEngineError:
        raise
    except NotInPng as error:
        raise UnfitFormat(path, str(error)) from error
    except OSError as error:
        # NumPy only says "N requested and M written" if the disk is full, without the system's reason.
        raise UnwritableImage(path, error.strerror or "not all of it could be written; its disk may be full") from error
    except Exception as error:  # what an encoder raises for what it did not expect
        raise UnfitFormat(path, f"{type(error).__name__}: {shown(' '.join(str(error).split()), 200)}") from error
    return ()


def _read_npy(path: Path) -> Image:
    return Image(np.asarray(np.load(path, allow_pickle=False)), None)


def _write_csv(file: BinaryIO, image: Image) -> None:
    """Write only numbers, with commas and all digits of the dtype; a row for each sample."""
    data, axes = image.data, image.axes or ""
    digits = {2: 5, 4: 9, 8: 17}.get(data.dtype.itemsize, 17)
    rows = data[:, None] if axes == "b" else data.T if axes == "cb" else np.atleast_2d(data)
    np.savetxt(file, rows, delimiter=",", fmt=f"%.{digits}g" if data.dtype.kind == "f" else "%d")


def _check_beginning(path: Path, wanted: str) -> None:
    """Raises UnreadableImage if the first bytes are those of another kind of file."""
    with open(path, "rb") as file:
        beginning = file.read(8)
    if not beginning:
        raise UnreadableImage(path, "it is empty, 0 bytes")
    kind = next((kind for magic, kind in _BEGINNINGS.items() if beginning.startswith(magic)), None)
    if kind in (None, wanted):
        return
    if kind in _RENAMED:
        raise UnreadableImage(path, f"it is a {kind} file, not a {wanted} file; rename it to {path.stem}{_RENAMED[kind]}")
    raise UnreadableImage(path, f"it is a {kind} file, not a {wanted} file; save it as one of {', '.join(SUFFIXES)}")


def _reason(error: Exception) -> str:
    """The message of a decoder's error, on one line."""
    said = " ".join(str(error).split()).rstrip(".")
    if "allow_pickle" in said:
        return "it holds Python objects, not numbers"
    match error:
        case NoSuchImage():
            return said
        case OSError(strerror=str(reason)):
            return reason
        case MemoryError():
            return "it does not fit into memory" + (f" ({shown(said, 200)})" if said else "")
        case Pillow.DecompressionBombError():
            return "it has more pixels than are read from a PNG; save it as a .tif"
    what = shown(said, 200) if said else ""
    name = "" if isinstance(error, ValueError) and said else type(error).__name__  # of others the text alone says little
    return f"it is damaged, not complete, or of a kind that is not read ({': '.join(part for part in (name, what) if part)})"
