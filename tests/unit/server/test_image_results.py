"""What is written of a result: a run may have taken an hour, and nothing that its image says of itself may cost it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from bioengine_server.images.errors import UnwritableImage
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize

PLANE = np.linspace(0, 1, 8 * 12, dtype=np.float32).reshape(8, 12)
MOVIE = np.stack([PLANE] * 3)


@pytest.mark.parametrize("unit", ["µs", "μs", "\\u00B5s"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_movie_in_microseconds(tmp_path: Path, unit: str, dtype: str) -> None:
    """Of OME-TIFF, and of ImageJ's description in UTF-8 or with its escape."""
    about = {"axes": "TYX", "TimeIncrement": 5.0, "TimeIncrementUnit": unit}
    tifffile.imwrite(tmp_path / "x.ome.tif", MOVIE, metadata=about)
    described = f"ImageJ=1.54f\nimages=3\nframes=3\nfinterval=5.0\ntunit={unit}\nloop=false\n".encode()
    tifffile.imwrite(tmp_path / "x.tif", MOVIE, description=described, photometric="minisblack", metadata=None)
    for name in ("x.ome.tif", "x.tif"):
        size = read_image(tmp_path / name).pixel_size
        assert (size.t, size.time_unit) == (5, "us")
        assert write_image(tmp_path / f"y-{name}", Image(MOVIE.astype(dtype), "tyx", size)) == ()
        assert read_image(tmp_path / f"y-{name}").pixel_size.time_unit == "us"


@pytest.mark.parametrize("unit", ["長", "a\nimages=7"])
def test_a_unit_is_one_line_of_ascii(tmp_path: Path, unit: str) -> None:
    about = {"axes": "TYX", "TimeIncrement": 5.0, "TimeIncrementUnit": unit, "PhysicalSizeX": 2, "PhysicalSizeXUnit": unit}
    tifffile.imwrite(tmp_path / "x.ome.tif", MOVIE, metadata=about)
    size = read_image(tmp_path / "x.ome.tif").pixel_size
    assert size.unit and size.time_unit and (size.unit + size.time_unit).isascii() and "\n" not in size.unit + size.time_unit


@pytest.mark.parametrize(
    ("size", "unit", "kept", "kept_unit"),
    [
        (1e-10, "m", 1e-4, "um"),
        (1e-10, "um", 1e-7, "nm"),
        (1e9, "um", 1e3, "m"),
        (0.25, "um", 0.25, "um"),
        (1e-7, "m", 1e-7, "m"),
    ],
)
def test_a_pixel_size_is_said_in_a_unit_that_a_tiff_can_hold(
    tmp_path: Path, size: float, unit: str, kept: float, kept_unit: str
) -> None:
    assert write_image(tmp_path / "x.tif", Image(MOVIE, "zyx", PixelSize(size, 2 * size, 3 * size, unit))) == ()
    read = read_image(tmp_path / "x.tif").pixel_size
    near = pytest.approx
    assert read == PixelSize(near(kept), near(2 * kept), near(3 * kept), kept_unit)


@pytest.mark.parametrize(("size", "unit"), [(1e-10, None), (1e-10, "pixel"), (1e-30, "m"), (1e30, "m"), (-0.1, "um")])
def test_a_pixel_size_that_no_tiff_holds_is_left_out_and_said(tmp_path: Path, size: float, unit: str | None) -> None:
    (note,) = write_image(tmp_path / "x.tif", Image(MOVIE, "zyx", PixelSize(size, size, size, unit)))
    assert "is left out: no TIFF can say it" in note
    read = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(read.data, MOVIE)
    assert read.pixel_size.unit is None


def test_a_size_below_nothing_is_none(tmp_path: Path) -> None:
    about = {"axes": "YX", "PhysicalSizeX": -0.1, "PhysicalSizeY": -0.1}
    tifffile.imwrite(tmp_path / "x.ome.tif", PLANE, metadata=about)
    assert read_image(tmp_path / "x.ome.tif").pixel_size == PixelSize()


def test_whatever_an_encoder_raises_is_of_this_file(tmp_path: Path) -> None:
    """So that the others of a batch are done; nothing is left of it."""
    odd = Image(MOVIE, "tyx", PixelSize(t=5.0, time_unit="長"))
    with pytest.raises(UnwritableImage, match=r"x\.tif cannot be written: UnicodeEncodeError"):
        write_image(tmp_path / "x.tif", odd)
    assert list(tmp_path.iterdir()) == []
