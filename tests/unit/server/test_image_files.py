"""Image files as microscopes, Fiji and other people's programs write them; damaged ones; what a result keeps of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from bioengine_server.images.axes import from_model_axes, to_model_axes
from bioengine_server.images.errors import UnreadableImage
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize, rescaled
from bioengine_server.images.model import TensorAxes
from PIL import Image as Pillow
from PIL import PngImagePlugin

GRAY = (np.arange(64 * 48) % 251).astype(np.uint8).reshape(64, 48)
RGB = np.stack([GRAY, GRAY.T.reshape(64, 48), 250 - GRAY], -1)
RGBA = np.concatenate([RGB, np.full((64, 48, 1), 100, np.uint8)], -1)
MODEL = TensorAxes("image", "bcyx", 1, "float32")


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "packbits", "lzma", "jpeg2000", "jpegxl", "lerc"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_compressed_tiffs(tmp_path: Path, compression: str, dtype: str) -> None:
    """Without loss, so what is read is what was written."""
    data = GRAY.astype(dtype) * (200 if dtype == "uint16" else 1)
    tifffile.imwrite(tmp_path / "x.tif", data, compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").data, data)


def test_predictors_and_tiles(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", GRAY, compression="lzw", predictor=True, tile=(16, 16))
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").data, GRAY)


def test_jpeg_in_a_tiff_is_rgb_again(tmp_path: Path) -> None:
    smooth = sum(np.meshgrid(np.arange(64), np.arange(48), [10, 60, 120], indexing="ij"))
    tifffile.imwrite(tmp_path / "x.tif", np.uint8(smooth), photometric="rgb", compression="jpeg", compressionargs={"level": 99})
    read = read_image(tmp_path / "x.tif")
    assert read.axes == "yxc" and np.abs(read.data.astype(int) - smooth).max() < 8


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_transparency_is_left_out_and_said(tmp_path: Path, dtype: str) -> None:
    """Of a TIFF as of a PNG, and of 16 bits, which Pillow would cut to 8."""
    data = RGBA.astype(dtype) * (200 if dtype == "uint16" else 1)
    tifffile.imwrite(tmp_path / "x.tif", data, photometric="rgb", extrasamples=["unassalpha"])
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(data, -1, 0), photometric="rgb", extrasamples=["assocalpha"])
    (tmp_path / "x.png").write_bytes(imagecodecs.png_encode(data))
    tif, png, planar = (read_image(tmp_path / name) for name in ("x.tif", "x.png", "planar.tif"))
    np.testing.assert_array_equal(tif.data, data[..., :3])
    np.testing.assert_array_equal(png.data, data[..., :3])
    np.testing.assert_array_equal(planar.data, np.moveaxis(data[..., :3], -1, 0))
    assert tif.axes == png.axes == "yxc" and planar.axes == "cyx"
    assert tif.notes == png.notes == planar.notes == ("its transparency is left out",)


def test_gray_with_transparency(tmp_path: Path) -> None:
    for name, dtype in (("8", np.uint8), ("16", np.uint16)):
        data = np.stack([GRAY, GRAY // 2], -1).astype(dtype)
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(data))
        read = read_image(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read.data, GRAY)
        assert read.axes == "yx" and read.data.dtype == dtype and read.notes == ("its transparency is left out",)
    tifffile.imwrite(tmp_path / "x.tif", np.stack([GRAY, GRAY // 2], -1), photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").data, GRAY)


def test_other_further_channels_stay(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", RGBA, photometric="rgb", extrasamples=["unspecified"])
    read = read_image(tmp_path / "x.tif")
    assert read.data.shape == (64, 48, 4) and read.notes == ()


def test_palettes(tmp_path: Path) -> None:
    """A PNG's are colours; a TIFF's may be those in which ImageJ shows intensities."""
    Pillow.fromarray(RGB).quantize(16).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").axes == "yxc" and read_image(tmp_path / "x.png").notes == ()
    tifffile.imwrite(tmp_path / "x.tif", GRAY, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").data, GRAY)
    assert "palette" in read_image(tmp_path / "x.tif").notes[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_what_is_dark_to_viewers_is_dark(tmp_path: Path, dtype: str) -> None:
    """Of MinIsWhite, a kind in which 0 is white."""
    data = GRAY > 100 if dtype == "bool" else GRAY.astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", data, photometric="miniswhite")
    read = read_image(tmp_path / "x.tif")
    assert read.data.dtype == dtype and read.notes == ("its values are inverted: 0 is white in the file (MinIsWhite)",)
    np.testing.assert_array_equal(read.data, ~data)


def test_the_bits_that_there_are(tmp_path: Path) -> None:
    """Of 4 bits, which tifffile reads and does not write, 15 is the most."""
    values = GRAY % 16
    tifffile.imwrite(tmp_path / "x.tif", values[:, ::2] << 4 | values[:, 1::2], photometric="miniswhite", metadata=None)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+") as file:
        file.pages.first.tags["BitsPerSample"].overwrite(4)
        file.pages.first.tags["ImageWidth"].overwrite(48)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif").data, 15 - GRAY % 16)


def test_other_meanings_of_values_are_said(tmp_path: Path) -> None:
    files = {
        "white": (GRAY.astype(np.float32), {"photometric": "miniswhite"}, "its small values are bright"),
        "inks": (RGBA, {"photometric": "separated"}, "inks (CMYK), not RGB"),
        "lab": (RGB, {"photometric": "cielab"}, "CIE Lab, not RGB"),
        "video": (RGB, {"photometric": "ycbcr"}, "YCbCr, not RGB"),
    }
    for name, (data, options, said) in files.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", data, **options)  # type: ignore[arg-type]
        read = read_image(tmp_path / f"{name}.tif")
        assert len(read.notes) == 1 and said in read.notes[0]
        np.testing.assert_array_equal(read.data, data)
    tifffile.imwrite(tmp_path / "jpeg.tif", RGB, photometric="ycbcr", compression="jpeg")
    assert read_image(tmp_path / "jpeg.tif").notes == (), "a decoder has made it RGB"


def test_a_png_that_moves_is_said(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(GRAY), Pillow.fromarray(250 - GRAY), Pillow.fromarray(GRAY // 2)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    deep = imagecodecs.png_encode(RGB.astype(np.uint16) * 200)  # which is read in another way
    moves = (tmp_path / "x.png").read_bytes().partition(b"acTL")
    (tmp_path / "deep.png").write_bytes(deep[:33] + moves[0][-4:] + b"acTL" + moves[2][:12] + deep[33:])
    for name, first in (("x.png", GRAY), ("deep.png", RGB.astype(np.uint16) * 200)):
        read = read_image(tmp_path / name)
        np.testing.assert_array_equal(read.data, first)
        assert len(read.notes) == 1 and "3 frames, and its first image was used" in read.notes[0]


def several(path: Path, *images: np.ndarray, **options: Any) -> Path:
    with tifffile.TiffWriter(path, **options) as file:
        for image in images:
            file.write(image, metadata=None if not options else {})
    return path


def test_of_several_images_the_largest_is_used_and_said(tmp_path: Path) -> None:
    """A thumbnail before it, or a smaller copy behind it, is never taken for it."""
    large = np.arange(160 * 200).reshape(160, 200).astype(np.uint16)
    small = large[::8, ::8]
    for images, number in [((small, large), 2), ((large, small), 1)]:
        read = read_image(several(tmp_path / "x.tif", *images))
        np.testing.assert_array_equal(read.data, large)
        (note,) = read.notes
        assert "it has 2 images" in note and f"number {number} was used, the largest" in note and "--series N" in note
        other = read_image(tmp_path / "x.tif", 3 - number)
        np.testing.assert_array_equal(other.data, small)
        assert other.notes == ()
    np.testing.assert_array_equal(read_image(several(tmp_path / "x.tif", large, large[::2, ::2], small)).data, large)


def test_positions_of_an_ome_tiff(tmp_path: Path) -> None:
    positions = [np.full((8, 12), number, np.uint16) for number in range(3)]
    path = several(tmp_path / "x.ome.tif", *positions, ome=True)
    (note,) = read_image(path).notes
    assert "it has 3 images (1: 8 x 12, 2: 8 x 12, 3: 8 x 12), and number 1 was used, the first" in note
    assert [int(read_image(path, number).data[0, 0]) for number in (1, 2, 3)] == [0, 1, 2]
    for number in (4, 100):
        with pytest.raises(UnreadableImage, match=f"it has 3 images, so there is no --series {number}"):
            read_image(path, number)
    np.save(tmp_path / "x.npy", GRAY)
    with pytest.raises(UnreadableImage, match="one image, so there is no --series 2"):
        read_image(tmp_path / "x.npy", 2)


def test_pixel_sizes_of_ome_tiffs(tmp_path: Path) -> None:
    """With units of their own; each image of several has its own."""
    about = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    about |= {"PhysicalSizeZ": 0.002, "PhysicalSizeZUnit": "mm", "TimeIncrement": 30, "TimeIncrementUnit": "s"}
    with tifffile.TiffWriter(tmp_path / "x.ome.tif") as file:
        file.write(np.zeros((2, 3, 8, 12), np.uint16), metadata={"axes": "TZYX", **about})
        file.write(np.zeros((8, 12), np.uint16), metadata={"axes": "YX", "PhysicalSizeX": 2, "PhysicalSizeY": 3})
    near: Any = pytest.approx
    assert read_image(tmp_path / "x.ome.tif").pixel_size == PixelSize(near(500), near(250), near(2000), "nm", 30, "s")
    assert read_image(tmp_path / "x.ome.tif", 2).pixel_size == PixelSize(3, 2, None, "um")
    assert read_image(tmp_path / "x.ome.tif").axes == "tzyx"


@pytest.mark.parametrize("xml", ["<OME", "<OME><Image><Pixels PhysicalSizeX='wide'/></Image></OME>", "<OME/>"])
def test_descriptions_that_say_nothing_of_use(tmp_path: Path, xml: str) -> None:
    tifffile.imwrite(tmp_path / "x.tif", GRAY, description=xml, metadata=None)
    read = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(read.data, GRAY)
    assert read.pixel_size.x in (None, 1.0) and read.pixel_size.unit is None


def result_of(path: Path, axes: str | None, target: Path, channels: int = 2) -> tifffile.TiffFile:
    """What a 2D model of two channels makes of a file, as `run` writes it."""
    image = read_image(path)
    arranged = to_model_axes(image, axes, MODEL)
    output = np.repeat(arranged.data, channels, 1).astype(np.float32)
    data, kept = from_model_axes(output, "bcyx", arranged)
    size = rescaled(image.pixel_size, dict(zip("bcyx", arranged.data.shape)), dict(zip("bcyx", output.shape)))
    write_image(target, Image(data, kept, size))
    return tifffile.TiffFile(target)


@pytest.mark.parametrize(
    ("axes", "about", "kept"),
    [
        ("TYX", {"finterval": 30.0, "tunit": "sec"}, "TCYX"),
        ("ZYX", {"spacing": 2.0}, "ZCYX"),
    ],
)
def test_time_and_z_stay_time_and_z(tmp_path: Path, axes: str, about: dict[str, float], kept: str) -> None:
    """Run plane by plane, the result opens in Fiji as what went in."""
    stack = np.arange(3 * 8 * 12).reshape(3, 8, 12).astype(np.uint16)
    metadata = {"axes": axes, "unit": "um", **about}
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True, resolution=(4, 4), metadata=metadata)
    with result_of(tmp_path / "x.tif", "byx", tmp_path / "y.tif") as file:
        assert file.series[0].axes == kept and file.imagej_metadata is not None
        assert {name: file.imagej_metadata[name] for name in (*about, "unit")} == {**about, "unit": "um"}
        assert file.pages.first.tags["XResolution"].value == (4, 1)
        np.testing.assert_array_equal(file.asarray()[:, 1], stack)


def test_an_ome_tiffs_pixel_size_is_the_results(tmp_path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "x.ome.tif", GRAY, metadata=metadata)
    with result_of(tmp_path / "x.ome.tif", None, tmp_path / "y.tif") as file:
        assert file.is_imagej and file.imagej_metadata is not None and file.imagej_metadata["unit"] == "um"
        assert file.pages.first.tags["XResolution"].value == (4, 1) and file.series[0].axes == "CYX"


def test_every_plane_of_every_frame(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 8 * 12).reshape(2, 3, 8, 12).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True, metadata={"axes": "TZYX"})
    with result_of(tmp_path / "x.tif", "bbyx", tmp_path / "y.tif") as file:
        assert file.series[0].axes == "TZCYX"
        np.testing.assert_array_equal(file.asarray()[:, :, 0], stack)


def test_a_batch_of_unknown_planes_is_a_stack(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 12), np.float32))
    with result_of(tmp_path / "x.npy", "byx", tmp_path / "y.tif", channels=1) as file:
        assert file.is_imagej and file.series[0].axes == "ZYX"


def truncated(suffix: str, part: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        whole = path.with_name(f"whole{suffix}")
        write_image(whole, Image(GRAY, "yx"))
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])

    return write


def without_pages(path: Path) -> None:
    path.write_bytes(b"II*\0\0\0\0\0")


def bomb(path: Path) -> None:
    """A PNG that says that it is a hundred thousand pixels wide and high."""
    small = io.BytesIO()
    Pillow.fromarray(GRAY).save(small, "PNG")
    header = b"IHDR" + (100_000).to_bytes(4) * 2 + b"\x08\0\0\0\0"
    crc = PngImagePlugin._crc32(header).to_bytes(4)
    path.write_bytes(small.getvalue()[:12] + header + crc + small.getvalue()[33:])


def huge_array(path: Path) -> None:
    np.save(path, np.zeros(8))
    path.write_bytes(path.read_bytes().replace(b"(8,), }           ", b"(8000000000000000,), }"[:22].ljust(18)))


DAMAGED: list[tuple[str, Callable[[Path], object], str]] = [
    *((f"x{suffix}", truncated(suffix, part), "") for suffix in (".tif", ".png", ".npy") for part in (0.05, 0.5, 0.9)),
    *((f"x{suffix}", Path.touch, "it is empty, 0 bytes") for suffix in (".tif", ".png", ".npy")),
    ("x.tif", without_pages, "a TIFF that contains no image"),
    ("x.tif", truncated(".png", 1), r"it is a PNG file, not a TIFF file; rename it to x\.png"),
    ("x.png", truncated(".tif", 1), r"it is a TIFF file, not a PNG file; rename it to x\.tif"),
    ("x.npy", lambda path: np.savez(path.open("wb"), GRAY), "it is a zip file, not a NumPy file"),
    ("x.png", bomb, "more pixels than are read"),
    ("x.npy", lambda path: np.save(path, np.zeros(4, "U8")), "its values are str"),
    ("x.npy", lambda path: np.save(path, np.zeros(4, complex)), "its values are complex"),
    ("x.npy", lambda path: np.save(path, np.zeros((0, 4))), "it is empty"),
    ("x.npy", lambda path: np.save(path, np.array([{}], object)), "it holds Python objects"),
    ("x.tif", Path.mkdir, r"it is a folder; name the files in it, such as .*x\.tif/\*\.tif"),
]


@pytest.mark.parametrize(("name", "write", "reason"), DAMAGED)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which names the file and the reason, whatever the decoder raised, and nothing is printed beside it."""
    write(tmp_path / name)
    with pytest.raises(UnreadableImage, match=rf"x\.\w+ cannot be read: .*{reason}") as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value) and "allow_pickle" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg2000", "zstd"])
def test_random_damage_is_read_or_one_line(tmp_path: Path, compression: str | None, seed: int) -> None:
    tifffile.imwrite(tmp_path / "whole.tif", np.stack([GRAY] * 3), compression=compression, photometric="minisblack")
    good = (tmp_path / "whole.tif").read_bytes()
    random = np.random.default_rng(seed)
    read = 0
    for _ in range(12):
        data = bytearray(good)
        for place in random.integers(0, min(len(data), 1500), 6):
            data[place] = random.integers(256)
        (tmp_path / "x.tif").write_bytes(data)
        try:
            read += read_image(tmp_path / "x.tif").data.size > 0
        except UnreadableImage as error:
            assert "x.tif cannot be read" in str(error) and "\n" not in str(error)
    assert read < 12, "no damage was seen"


def test_pages_that_are_missing_are_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """tifffile goes on with those that are there, and only logs it."""
    several(tmp_path / "x.tif", *[GRAY] * 4)
    whole = (tmp_path / "x.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        end = [page.offset for page in file.pages][2]
    (tmp_path / "x.tif").write_bytes(whole[:end])
    read = read_image(tmp_path / "x.tif")
    assert read.data.shape == (2, 64, 48) and any("tifffile says" in note for note in read.notes)
    assert capfd.readouterr() == ("", "")


def test_what_a_png_loses_is_said(tmp_path: Path) -> None:
    data = np.full((8, 8), 0.5, np.float32)
    assert write_image(tmp_path / "a.png", Image(data, "yx")) == ()
    data[0, 0], data[0, 1] = np.nan, np.inf
    notes = " ".join(write_image(tmp_path / "b.png", Image(data, "yx")))
    assert "2 of 64 values are NaN or infinite" in notes and ".tif or .npy keeps" in notes
    notes = " ".join(write_image(tmp_path / "c.png", Image(np.linspace(-3, 12, 64, dtype=np.float32).reshape(8, 8), "yx")))
    assert "from -3 to 12" in notes


def test_tables(tmp_path: Path) -> None:
    scores = np.array([[0.1, 1 / 3, np.nan], [1e-30, -2.0, 3e30]], np.float32)
    write_image(tmp_path / "x.csv", Image(scores, "bc"))
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "x.csv", delimiter=",", dtype=np.float32), scores)
    write_image(tmp_path / "y.csv", Image(np.array([[1, -2, 300]]), "bc"))
    assert (tmp_path / "y.csv").read_text() == "1,-2,300\n"


def test_names_in_capitals(tmp_path: Path) -> None:
    for suffix in ("TIF", "Tiff", "PNG", "NPY"):
        write_image(tmp_path / f"X.{suffix}", Image(GRAY, "yx"))
        np.testing.assert_array_equal(read_image(tmp_path / f"X.{suffix}").data, GRAY)
    assert {path.name for path in tmp_path.iterdir()} == {"X.TIF", "X.Tiff", "X.PNG", "X.NPY"}
