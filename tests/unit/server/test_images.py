"""Image files, their axes and pixel sizes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from bioengine_server.images.axes import from_model_axes, to_model_axes
from bioengine_server.images.errors import UnclearAxes, UnreadableImage, UnwritableImage, WrongChannels, WrongValues
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize, rescaled
from bioengine_server.images.model import Model, TensorAxes
from bioengine_server.images.runs import check_values
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


GRAY_2D, RGB_2D, ONE_3D = TensorAxes("image", "bcyx", 1), TensorAxes("image", "bcyx", 3), TensorAxes("image", "bczyx", 1)


@pytest.mark.parametrize(
    ("given", "axes", "spec", "hint"),
    [
        (image(7, 5, 6, axes="tyx"), None, GRAY_2D, "byx"),
        (image(7, 5, 6, axes="zyx"), None, GRAY_2D, "byx"),
        (image(7, 5, 6, axes="tyx"), "cyx", GRAY_2D, "byx"),
        (image(7, 5, 6, axes="tyx"), "tyx", GRAY_2D, "byx"),
        (image(7, 5, 6), None, GRAY_2D, "byx"),
        (image(2, 7, 5, 6, axes="tzyx"), None, GRAY_2D, "bbyx"),
        (image(2, 7, 5, 6, axes="tzyx"), None, ONE_3D, "bzyx"),
        (image(2, 7, 5, 6), None, GRAY_2D, "bbyx"),
        (image(5, 6, 3, axes="yxc"), None, GRAY_2D, "yxb"),
        (image(5, 6, 3), None, RGB_2D, "yxc"),
        (image(5, 6, 3), "cyx", RGB_2D, "yxc"),
        (image(7, 5, 6, 3, axes="zyxc"), None, RGB_2D, "byxc"),
        (image(5, 6), "zyx", GRAY_2D, "yx"),
        (image(5, 6), "yy", GRAY_2D, "yx"),
        (image(5, 6, axes="yx"), None, ONE_3D, None),
        (image(32, 40, 3), None, GRAY_2D, None),
        (image(32, 40, 4), None, GRAY_2D, None),
        (image(7, 32, 40, 3), None, GRAY_2D, None),
        (image(32, 40, 4), "zyx", GRAY_2D, None),
        (image(32, 40, 1), None, GRAY_2D, "yxc"),
        (image(7, 5, 6, axes="cyx"), None, ONE_3D, None),
        (image(32, 40, 3, axes="yxc"), None, ONE_3D, None),
        (image(3, 32, 40, axes="zyx"), None, RGB_2D, None),
        (image(3, 32, 40), "zyx", RGB_2D, "cyx"),
        (image(7, 5, 6, axes="zyx"), None, TensorAxes("image", "yx"), None),
    ],
)
def test_the_hint_that_is_printed_works(given: Image, axes: str | None, spec: TensorAxes, hint: str | None) -> None:
    with pytest.raises((UnclearAxes, WrongChannels)) as caught:
        to_model_axes(given, axes, spec)
    printed = re.search(r"--axes (\w+)", str(caught.value).replace("with --axes, one letter", ""))
    assert (printed[1] if printed else None) == hint
    if hint is not None:
        data = to_model_axes(given, hint, spec).data
        assert data.shape[1] == spec.channels and data.size == given.data.size


@pytest.mark.parametrize("wanted", ["bcyx", "bczyx", "bzyx"])
def test_colours_are_no_pixels(wanted: str) -> None:
    """Neither by themselves, nor where the model takes any number of channels, nor as planes of a volume."""
    for colours in (3, 4):
        with pytest.raises(UnclearAxes, match=f"--axes yxc|Its last axis has {colours} values, like a colour image"):
            to_model_axes(image(32, 40, colours), None, TensorAxes("image", wanted))
    with pytest.raises(UnclearAxes, match="Such an image does not fit with any order of its axes"):
        to_model_axes(image(32, 40, 3, axes="yxc"), None, TensorAxes("image", "bzyx"))
    assert to_model_axes(image(32, 40, 3), "zyx", ONE_3D).data.shape == (1, 1, 32, 40, 3), "where it is said"


def test_a_movie_that_is_taken_as_a_volume_is_said() -> None:
    assert to_model_axes(image(4, 5, 6, axes="tyx"), None, ONE_3D).notes == (
        "its frames (t) are taken as the model's planes (z)",
    )
    for axes in ("zyx", None):
        assert to_model_axes(image(4, 5, 6, axes=axes), None, ONE_3D).notes == ()
    both = to_model_axes(image(2, 7, 5, 6, axes="ztyx"), None, TensorAxes("image", "btzyx"))
    assert both.data.shape == (1, 7, 2, 5, 6) and both.notes == ()


def test_what_a_hint_means_is_said() -> None:
    for axes, planes in (("tyx", "frames"), ("zyx", "planes"), ("cyx", "channels")):
        with pytest.raises((UnclearAxes, WrongChannels), match=f"--axes byx, which runs its {planes} one by one"):
            to_model_axes(image(7, 5, 6, axes=axes), None, GRAY_2D)


def test_axes_in_capitals() -> None:
    np.testing.assert_array_equal(to_model_axes(image(7, 5, 6), "BYX", GRAY_2D).data[:, 0], image(7, 5, 6).data)


def test_several_axes_of_a_batch_are_taken_apart_again() -> None:
    stack = image(2, 7, 5, 6, axes="tzyx")
    arranged = to_model_axes(stack, "bbyx", GRAY_2D)
    assert arranged.data.shape == (14, 1, 5, 6)
    data, axes = from_model_axes(np.repeat(arranged.data, 2, 1), "bcyx", arranged)
    assert axes == "tzcyx"
    np.testing.assert_array_equal(data[:, :, 1], stack.data)
    assert from_model_axes(arranged.data, "bcyx", arranged)[1] == "tzyx"


def test_a_batch_gets_a_letter_that_is_free() -> None:
    channels = to_model_axes(image(5, 6, 3, axes="yxc"), "yxb", GRAY_2D)
    assert from_model_axes(np.zeros((3, 2, 5, 6)), "bcyx", channels)[1] == "zcyx"
    assert from_model_axes(np.zeros((3, 1, 5, 6)), "bcyx", channels)[1] == "zyx"
    stacks = to_model_axes(image(4, 7, 5, 6), "bzyx", ONE_3D)
    assert from_model_axes(np.zeros((4, 1, 7, 5, 6)), "bczyx", stacks)[1] == "tzyx"


def test_what_a_description_says_of_channels_and_dtypes() -> None:
    """In each of the ways of format 0.4."""
    rdf = {
        "inputs": [
            {"name": "a", "axes": "bcyx", "data_type": "uint8", "shape": [1, 3, 64, 64]},
            {"name": "b", "axes": "byxc", "shape": {"min": [1, 8, 8, 2], "step": [0, 8, 8, 0]}},
            {"name": "c", "axes": "bcyx", "shape": {"min": [1, 1, 8, 8], "step": [0, 1, 8, 8]}},
        ],
        "outputs": [
            {"name": "d", "axes": "bcyx", "shape": {"reference_tensor": "a", "scale": [1, 0, 1, 1], "offset": [0, 1.5, 0, 0]}},
            {"name": "e", "axes": "bc", "shape": [1, 5]},
            {"name": "f", "axes": "byx", "shape": "as the input"},
        ],
    }
    model = Model.of("m", rdf)
    assert [spec.channels for spec in (*model.inputs, *model.outputs)] == [3, 2, None, 3, 5, None]
    assert [spec.is_image for spec in model.outputs] == [True, False, True] and model.inputs[0].dtype == "uint8"


def test_values_that_a_model_of_integers_does_not_have() -> None:
    labels = TensorAxes("labels", "bcyx", 1, "uint8")
    unit = np.linspace(0, 1, 12, dtype=np.float32)
    for array, seen in [
        (unit, "from 0 to 1"),
        (np.array([0, 300]), "from 0 to 300"),
        (np.array([-1, 2], np.int8), "from -1 to 2"),
    ]:
        with pytest.raises(
            WrongValues, match=f"{seen}, but the model takes uint8: whole numbers from 0 to 255. Scale it"
        ) as caught:
            check_values(array, labels)
        assert "astype" not in str(caught.value)
    for array in (np.array([0.0, 255.0]), np.array([3, 4]), np.array([True]), np.array([0, 255], np.uint8)):
        check_values(array, labels)
    with pytest.raises(WrongValues, match="from 3 to 4 and 1 that are NaN or infinite, but"):
        check_values(np.array([3, 4, np.nan]), labels)
    check_values(np.array([0.5]), TensorAxes("image", "bcyx", 1, "float32"))


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
        near: Any = pytest.approx
        assert back.pixel_size == PixelSize(near(0.25), near(0.5), 2.0, "micron")


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
    with pytest.raises(UnwritableImage, match=r"a PNG (holds|cannot hold)"):
        write_image(tmp_path / "x.png", Image(data, "zyx"[-data.ndim :]))


@pytest.mark.parametrize("name", ["nowhere.tif", "text.tif", "text.png", "text.npy", "objects.npy", "x.jpg"])
def test_unreadable_images(tmp_path: Path, name: str) -> None:
    for text in ("text.tif", "text.png", "text.npy", "x.jpg"):
        (tmp_path / text).write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImage, match=f"{name} cannot be read"):
        read_image(tmp_path / name)
