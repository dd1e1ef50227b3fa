"""Read the pixel size of a TIFF file. Where it is depends on the kind of file.

- OME-TIFF: the attributes of `Pixels` in its XML, such as PhysicalSizeX and TimeIncrement.
- ImageJ: the resolution tags, and `unit`, `spacing` and `finterval` in its description.
- Others: only the resolution tags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import tifffile

from bioengine_server.images.image import PixelSize

# The length of a unit, in metres.
_METRES = {"pm": 1e-12, "nm": 1e-9, "um": 1e-6, "micron": 1e-6, "mm": 1e-3, "cm": 1e-2, "dm": 1e-1, "m": 1.0, "km": 1e3}
_METRES |= {"angstrom": 1e-10, "inch": 0.0254}

# Tried in this order where a TIFF cannot contain a size in its own unit.
_OTHER_UNITS = ("um", "nm", "pm", "mm", "m", "km")

_MAX_PIXELS = 2**32 - 1  # per unit of length: a TIFF's resolution is a ratio of two whole numbers of 32 bits
_FEWEST_PIXELS = 1e-6  # so that as many digits are left in that ratio as there are in a float32


def pixel_size(file: tifffile.TiffFile, index: int) -> PixelSize:
    """The pixel size of the image with this index in a file. Values that are missing or no numbers are None."""
    if file.is_ome and (size := _of_ome(file, index)) is not None:
        return size
    tags = file.series[index].keyframe.tags
    sizes: dict[str, float] = {}
    for name, tag in (("y", "YResolution"), ("x", "XResolution")):
        if tag in tags and (pixels := _ratio(tags[tag].value)):
            sizes[name] = 1 / pixels
    about = _description(file, index)
    unit = about.get("unit") or {2: "inch", 3: "cm"}.get(_whole(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 0)
    return PixelSize(
        **sizes,
        z=_number(about.get("spacing")),
        unit=_plain(str(unit)) if unit else None,
        t=_number(about.get("finterval")),
        time_unit=_plain(str(about["tunit"])) if about.get("tunit") else None,
    )


def for_tiff(size: PixelSize) -> PixelSize | None:
    """The same size in a unit that a TIFF can contain; None if there is none."""
    for unit in dict.fromkeys((size.unit, *_OTHER_UNITS)):
        y, x, z = (_in_unit(length, size.unit, unit) for length in (size.y, size.x, size.z))
        if all(length and _FEWEST_PIXELS <= 1 / length <= _MAX_PIXELS for length in (y, x)):
            return replace(size, y=y, x=x, z=z, unit=unit)
    return None


def _description(file: tifffile.TiffFile, index: int) -> dict[str, Any]:
    """The description of an image by ImageJ, or by tifffile for dtypes that ImageJ does not know."""
    if file.imagej_metadata:
        return dict(file.imagej_metadata)
    shaped = file.shaped_metadata or ()
    return dict(shaped[index]) if index < len(shaped) else {}


def _of_ome(file: tifffile.TiffFile, index: int) -> PixelSize | None:
    try:
        # expat bounds what entities may grow to, and tifffile has read the same text in the same way.
        root = ElementTree.fromstring(file.ome_metadata or "")  # noqa: S314
    except ElementTree.ParseError:
        return None
    images = [element for element in root.iter() if _local(element.tag) == "Image"]
    if len(images) != len(file.series):  # some images are in other files, or have no pixels
        images = [image for image in images if image.get("Name") == file.series[index].name] or images
        index = 0
    pixels = [element for image in images[index : index + 1] for element in image if _local(element.tag) == "Pixels"]
    if not pixels:
        return None
    about = pixels[0].attrib
    units = {axis: _plain(about.get(f"PhysicalSize{axis}Unit", "um")) for axis in "XYZ"}
    unit = units["X"]
    sizes = {axis: _in_unit(_number(about.get(f"PhysicalSize{axis}")), units[axis], unit) for axis in "XYZ"}
    interval = _number(about.get("TimeIncrement"))
    return PixelSize(
        y=sizes["Y"],
        x=sizes["X"],
        z=sizes["Z"],
        unit=unit if any(sizes.values()) else None,
        t=interval,
        time_unit=_plain(about.get("TimeIncrementUnit", "s")) if interval else None,
    )


def _local(tag: str) -> str:
    """The name in `{namespace}name`."""
    return tag.rpartition("}")[2]


def _plain(unit: str) -> str:
    """A unit in ASCII, as ImageJ writes it and TIFF descriptions require: um for both forms of µm in Unicode."""
    plain = unit.replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u").replace("Å", "angstrom")
    plain = " ".join(plain.split())  # it becomes one line of a description
    return plain if plain.isascii() else plain.encode("unicode_escape").decode()


def _in_unit(size: float | None, unit: str | None, wanted: str | None) -> float | None:
    if size is None or unit == wanted:
        return size
    if unit is None or wanted is None:
        return None
    return size * _METRES[unit] / _METRES[wanted] if unit in _METRES and wanted in _METRES else None


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None  # a size of less than nothing says nothing


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _ratio(value: Any) -> float | None:
    """The value of a TIFF rational, which is a pair of whole numbers."""
    try:
        return _number(value[0] / value[1])
    except (TypeError, IndexError, ZeroDivisionError):
        return None
