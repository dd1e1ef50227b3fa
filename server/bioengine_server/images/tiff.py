"""Read and write TIFF files with tifffile: of microscopes (OME-TIFF), of ImageJ and Fiji, and others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from bioengine_server.images.image import Image
from bioengine_server.images.pixel_size import for_tiff, pixel_size

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_IMAGEJ_ORDER = "tzcyx"
_IMAGEJ_MAX = 2**32 - 2**25  # bytes; ImageJ's own TIFF has offsets of 32 bits

_MAX_NOTES = 3

_OTHER_COLOURS: dict[int, str] = {
    tifffile.PHOTOMETRIC.SEPARATED: "those of inks (CMYK)",
    tifffile.PHOTOMETRIC.YCBCR: "YCbCr",
    tifffile.PHOTOMETRIC.CIELAB: "CIE Lab",
    tifffile.PHOTOMETRIC.ICCLAB: "ICC Lab",
    tifffile.PHOTOMETRIC.ITULAB: "ITU Lab",
    tifffile.PHOTOMETRIC.LOGL: "logarithms (LogL)",
    tifffile.PHOTOMETRIC.LOGLUV: "LogLuv",
}
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG_LOSSY)


class NoSuchImage(ValueError):
    """An image that the file does not have."""


def read_tiff(path: Path, number: int | None) -> Image:
    """One of the images in a TIFF file, without the transparency that it may have.

    Args:
        path: the file.
        number: the number of the image, from 1; None for the largest, or the first one of several largest.

    Raises NoSuchImage, and whatever tifffile and the decoders raise for damaged files.
    """
    with _warnings_of_tifffile() as warnings, _opened(path) as file:
        if not len(file.pages) or not file.series:
            raise NoSuchImage("it is a TIFF that contains no image")
        index = _chosen(file, number)
        series = file.series[index]
        notes = [] if number is not None or len(file.series) == 1 else [_which(file, index)]
        data, axes, without = _without_transparency(series)
        if without:
            notes.append("its transparency is left out")
        data, meaning = _as_seen(data, series.keyframe, file.is_imagej)
        notes += meaning
        return Image(data, axes, pixel_size(file, index), (*notes, *list(dict.fromkeys(warnings))[:_MAX_NOTES]))


def _opened(path: Path) -> tifffile.TiffFile:
    """Open a file, ignoring OME-XML that cannot be used, because the pages can be read without it."""
    file = tifffile.TiffFile(path)
    try:
        if file.is_ome:
            _ = file.series  # which reads the XML
    except Exception as error:  # whatever the XML lacks
        file.close()
        logging.getLogger("tifffile").warning("its OME-XML cannot be used (%s: %s)", type(error).__name__, error)
        return tifffile.TiffFile(path, is_ome=False)
    return file


def write_tiff(file: BinaryIO, image: Image) -> tuple[str, ...]:
    """Write a TIFF with the pixel size; ImageJ's own kind where it has the dtype and axes.

    Returns what the file does not keep.
    """
    axes, data, size = image.axes, image.data, image.pixel_size
    options: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    notes = []
    if (inside := for_tiff(size)) is not None and inside.x and inside.y:
        options["resolution"] = (1 / inside.x, 1 / inside.y)
        options["resolutionunit"] = {"inch": "INCH", "cm": "CENTIMETER"}.get(inside.unit or "", "NONE")
        if inside.unit:
            metadata["unit"] = inside.unit
        if inside.z:
            metadata["spacing"] = inside.z
    elif size.x and size.y:
        notes.append(
            f"its pixel size ({size.y:.4g} x {size.x:.4g} {size.unit or 'of no unit'}) is left out: a TIFF cannot represent it"
        )
    elif size.z:
        metadata["spacing"] = size.z  # and no unit: Fiji would take a pixel for one long
    if size.t and "t" in (axes or ""):
        metadata["finterval"] = size.t
        if size.time_unit:
            metadata["tunit"] = size.time_unit
    is_small = data.nbytes < _IMAGEJ_MAX
    if axes and is_small and data.dtype.name in _IMAGEJ_DTYPES and set(axes) <= set(_IMAGEJ_ORDER):
        order = [axes.index(letter) for letter in _IMAGEJ_ORDER if letter in axes]
        data, axes = data.transpose(order), "".join(axes[index] for index in order)
        options["imagej"] = True
    if axes:
        metadata["axes"] = axes.upper()
    options["bigtiff"] = not is_small
    tifffile.imwrite(file, np.ascontiguousarray(data), metadata=metadata, photometric="minisblack", **options)
    return tuple(notes)


def _as_seen(data: np.ndarray, page: tifffile.TiffPage, is_imagej: bool) -> tuple[np.ndarray, list[str]]:
    """The values as viewers show them, if that is unambiguous; otherwise a sentence about them."""
    kind = page.photometric
    if kind == tifffile.PHOTOMETRIC.MINISWHITE:
        said = ["its values are inverted: 0 is white in the file (MinIsWhite)"]
        if data.dtype == np.bool_:
            return ~data, said
        if data.dtype.kind == "u":
            return np.asarray((1 << page.bitspersample) - 1 - data, data.dtype), said
        return data, ["its small values are bright (MinIsWhite), but its numbers are used as they are"]
    if kind == tifffile.PHOTOMETRIC.PALETTE and not is_imagej:
        return data, ["its colours come from a palette, and the palette's numbers are used as values"]
    # A decoder of JPEG gives RGB.
    if kind in _OTHER_COLOURS and not (kind == tifffile.PHOTOMETRIC.YCBCR and page.compression in _JPEG):
        name = _OTHER_COLOURS[kind]
        return data, [
            f"its colours are {name}, not RGB, and its numbers are used as they are; save it as RGB if you want RGB values"
        ]
    return data, []


def _chosen(file: tifffile.TiffFile, number: int | None) -> int:
    """The index of the image to read. A thumbnail, or a smaller copy, is never the largest."""
    if number is None:
        return max(range(len(file.series)), key=lambda index: (_pixels(file.series[index]), -index))
    if not 1 <= number <= len(file.series):
        many = "one image" if len(file.series) == 1 else f"{len(file.series)} images"
        raise NoSuchImage(f"it has {many}, so there is no --series {number}; they are counted from 1")
    return number - 1


def _pixels(series: tifffile.TiffPageSeries) -> int:
    """The number of pixels of a plane."""
    sizes = dict(zip(series.axes, series.shape))
    return int(sizes.get("Y", 0)) * int(sizes.get("X", 0))


def _which(file: tifffile.TiffFile, index: int) -> str:
    shapes = [" x ".join(map(str, series.shape)) for series in file.series]
    shown = ", ".join(f"{number}: {shape}" for number, shape in enumerate(shapes[:6], start=1))
    more = ", ..." if len(shapes) > 6 else ""
    same = len({_pixels(series) for series in file.series}) == 1
    return (
        f"it has {len(shapes)} images ({shown}{more}), and number {index + 1} was used, the {'first' if same else 'largest'} "
        "of them; --series N takes another"
    )


def _without_transparency(series: tifffile.TiffPageSeries) -> tuple[np.ndarray, str | None, bool]:
    """The pixels of a series, their axes where the file says them, and whether it had an alpha channel, which is left out."""
    data = series.asarray()
    axes = series.axes.lower()
    alphas = [
        index
        for index, kind in enumerate(series.keyframe.extrasamples)
        if kind in (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    ]
    without = bool(alphas) and "s" in axes
    if without:
        samples = axes.index("s")
        first = data.shape[samples] - len(series.keyframe.extrasamples)
        data = np.delete(data, [first + index for index in alphas], axis=samples)
        if data.shape[samples] == 1:
            data, axes = data.squeeze(samples), axes.replace("s", "")
    # tifffile calls an axis of unknown meaning Q or I, and the samples of an RGB pixel S.
    axes = axes.replace("s", "c")
    return data, axes if set(axes) <= set("tzcyx") and len(set(axes)) == len(axes) else None, without


@contextmanager
def _warnings_of_tifffile() -> Iterator[list[str]]:
    """Collect what tifffile logs: parts that it could not read and has left out or filled with zeros."""
    said: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append("tifffile says: " + record.getMessage().splitlines()[0].replace("<tifffile.", "<"))

    logger, collector = logging.getLogger("tifffile"), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(collector)
        logger.propagate = before
