"""Image files, their axes and pixel sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from bioengine_server.images.axes import from_model_axes, to_model_axes
from bioengine_server.images.errors import UnclearAxes, UnreadableImage, UnwritableImage
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize, rescaled
from bioengine_server.images.model import TensorAxes
from PIL import Image as Pillow


def image(*shape: int, axes: str | None = None) -> Image:
    return Image(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), axes)


@pytest.mark.parametrize(
    ("given", "axes", "wanted", "shape"),
    [
        (image(5, 6), None, "bcyx", (1, 1, 5, 6)),
        (image(3, 5, 6), None, "bcyx", (1, 3, 5, 6)),
        (image(2, 3, 5, 6), None, "bcyx", (2, 3, 5, 6)),
        (image(5, 6, 3), "yxc", "bcyx", (1, 3, 5, 6)),
        (image(5, 6, 3, axes="yxc"), None, "bcyx", (1, 3, 5, 6)),
        (image(4, 5, 6), None, "bczyx", (1, 1, 4, 5, 6)),
        (image(4, 5, 6, axes="zyx"), None, "bczyx", (1, 1, 4, 5, 6)),
        (image(4, 5, 6, axes="tyx"), None, "bczyx", (1, 1, 4, 5, 6)),
        (image(4, 2, 5, 6, axes="zcyx"), None, "bczyx", (1, 2, 4, 5, 6)),
        (image(1, 5, 6, axes="zyx"), None, "bcyx", (1, 1, 5, 6)),
        (image(5, 6), "yx", "byx", (1, 5, 6)),
        (image(5, 6), "xy", "byx", (1, 6, 5)),
    ],
)
def test_axes(given: Image, axes: str | None, wanted: str, shape: tuple[int, ...]) -> None:
    assert to_model_axes(given, axes, TensorAxes("image", wanted)).data.shape == shape


def test_axes_move_and_values_stay() -> None:
    moved = to_model_axes(image(5, 6, 3), "yxc", TensorAxes("image", "bcyx")).data
    np.testing.assert_array_equal(moved[0], image(5, 6, 3).data.transpose(2, 0, 1))
    data, axes = from_model_axes(moved, "bcyx")
    assert axes == "cyx" and data.shape == (3, 5, 6)
    assert from_model_axes(np.zeros((1, 1, 5, 6)), "bcyx")[1] == "yx"


@pytest.mark.parametrize(
    ("given", "axes", "wanted"),
    [
        (image(7, 8, 5, 6, 2), None, "bcyx"),
        (image(5), None, "bcyx"),
        (image(5, 6), "yxz", "bcyx"),
        (image(5, 6), "yy", "bcyx"),
        (image(4, 5, 6), "zyx", "bcyx"),
        (image(5, 6), "yx", "bczyx"),
        (image(4, 5, 6, axes="tyx"), None, "bcyx"),
    ],
)
def test_unclear_axes(given: Image, axes: str | None, wanted: str) -> None:
    with pytest.raises(UnclearAxes, match=rf"the model's axes are '{wanted}'"):
        to_model_axes(given, axes, TensorAxes("image", wanted))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32", "float64", "bool"])
def test_tiff_keeps_pixels_axes_and_pixel_size(tmp_path: Path, dtype: str) -> None:
    data = (np.arange(2 * 3 * 5 * 6) % 2).reshape(2, 3, 5, 6).astype(dtype)
    write_image(tmp_path / "x.tif", Image(data, "czyx", PixelSize(0.25, 0.5, 2.0, "micron")))
    back = read_image(tmp_path / "x.tif")
    assert back.axes is not None
    np.testing.assert_array_equal(back.data.transpose([back.axes.index(axis) for axis in "czyx"]), data)
    assert back.pixel_size.y == pytest.approx(0.25) and back.pixel_size.x == pytest.approx(0.5)
    if dtype in ("uint8", "uint16", "float32"):
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            assert file.is_imagej and file.imagej_metadata is not None
        assert back.pixel_size == PixelSize(pytest.approx(0.25), pytest.approx(0.5), 2.0, "micron")


def test_pixel_size_follows_the_number_of_pixels() -> None:
    size = PixelSize(0.2, 0.2, 1.0, "micron")
    assert rescaled(size, {"y": 100, "x": 100}, {"y": 200, "x": 50}) == PixelSize(0.1, 0.4, 1.0, "micron")


def test_png(tmp_path: Path) -> None:
    write_image(tmp_path / "mask.png", Image(np.eye(8, dtype=bool), "yx"))
    np.testing.assert_array_equal(read_image(tmp_path / "mask.png").data, np.eye(8, dtype=np.uint8) * 255)
    write_image(tmp_path / "deep.png", Image(np.full((8, 8), 40_000, np.uint16), "yx"))
    assert read_image(tmp_path / "deep.png").data.max() == 40_000
    Pillow.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").data.shape == (8, 8, 3) and read_image(tmp_path / "clear.png").axes == "yxc"


@pytest.mark.parametrize("data", [np.zeros((3, 4, 5), np.uint8), np.zeros((4, 5), np.int32)])
def test_what_a_png_does_not_hold(tmp_path: Path, data: np.ndarray) -> None:
    with pytest.raises(UnwritableImage, match=r"write a \.tif or \.npy"):
        write_image(tmp_path / "x.png", Image(data, "zyx"[-data.ndim :]))


@pytest.mark.parametrize("name", ["nowhere.tif", "text.tif", "text.png", "text.npy", "objects.npy", "x.jpg"])
def test_unreadable_images(tmp_path: Path, name: str) -> None:
    for text in ("text.tif", "text.png", "text.npy", "x.jpg"):
        (tmp_path / text).write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImage, match=f"{name} cannot be read"):
        read_image(tmp_path / name)
