"""What is written of a result: a run may have taken an hour, and nothing that its image says of itself may cost it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
from bioengine_server.images.client import Answer, ModelClient
from bioengine_server.images.errors import UnclearAxes, UnfitFormat, UnwritableImage, WrongAxesCount, WrongChannels, WrongValues
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize
from bioengine_server.images.model import Model, TensorAxes
from bioengine_server.images.plan import Job
from bioengine_server.images.runs import Options, Report, run_on_files

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
    near: Any = pytest.approx
    assert read == PixelSize(near(kept), near(2 * kept), near(3 * kept), kept_unit)


@pytest.mark.parametrize(("size", "unit"), [(1e-10, None), (1e-10, "pixel"), (1e-30, "m"), (1e30, "m"), (-0.1, "um")])
def test_a_pixel_size_that_no_tiff_holds_is_left_out_and_said(tmp_path: Path, size: float, unit: str | None) -> None:
    (note,) = write_image(tmp_path / "x.tif", Image(MOVIE, "zyx", PixelSize(size, size, size, unit)))
    assert "is left out: a TIFF cannot represent it" in note
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


def test_colours_of_either_order_are_a_png(tmp_path: Path) -> None:
    colours = (np.arange(8 * 12 * 3) % 251).astype(np.uint8).reshape(8, 12, 3)
    for name, data, axes in (("last", colours, "yxc"), ("first", np.moveaxis(colours, -1, 0), "cyx")):
        assert write_image(tmp_path / f"{name}.png", Image(data, axes)) == ()
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png").data, colours)
    with pytest.raises(UnfitFormat):
        write_image(tmp_path / "volume.png", Image(colours, "zyx"))


@pytest.mark.parametrize(
    ("data", "axes", "text"),
    [
        (np.array([1, -2, 300]), "b", "1\n-2\n300\n"),
        (np.array([1, -2, 300]), "c", "1,-2,300\n"),
        (np.array([[1, 2, 3], [4, 5, 6]]), "bc", "1,2,3\n4,5,6\n"),
        (np.array([[1, 2, 3], [4, 5, 6]]), "cb", "1,4\n2,5\n3,6\n"),
    ],
)
def test_a_table_has_a_row_for_each_sample(tmp_path: Path, data: np.ndarray, axes: str, text: str) -> None:
    write_image(tmp_path / "x.csv", Image(data, axes))
    assert (tmp_path / "x.csv").read_text() == text


class Gives:
    """Of a client what a run asks of it: the real one needs a server, and what it gives is what is written here."""

    def __init__(self, *outputs: np.ndarray) -> None:
        self._outputs = list(outputs)
        self.inputs: list[np.ndarray | None] = []
        self.wanted: list[str] | None = None
        self.labels = False

    def run(
        self,
        _id: str,
        inputs: list[np.ndarray | None],
        _weights: str | None = None,
        _progress: object = None,
        wanted: list[str] | None = None,
        labels: bool = False,
    ) -> Answer:
        self.inputs, self.wanted, self.labels = inputs, wanted, labels
        return Answer(self._outputs, 0.1, [])


def run(model: Model, client: Gives, job: Job, options: Options = Options()) -> Report:  # frozen
    return run_on_files(cast(ModelClient, client), model, job, options)


IMAGE = TensorAxes("image", "bcyx", 1, "float32")
PAIR = Model("m", [IMAGE, TensorAxes("mask", "bczyx", 1, "uint8")], [IMAGE])


def pair(folder: Path, mask: np.ndarray) -> Job:
    np.save(folder / "x.npy", MOVIE)
    np.save(folder / "mask.npy", mask)
    return Job([folder / "x.npy", folder / "mask.npy"], {0: folder / "o.npy"})


@pytest.mark.parametrize("axes", ["byx", "byx,zyx", "BYX, ", "byx,"])
def test_axes_are_those_of_each_image(tmp_path: Path, axes: str) -> None:
    """What one image needs is not asked of the other, which cannot have it."""
    client = Gives(np.zeros((3, 1, 8, 12), np.float32))
    run(PAIR, client, pair(tmp_path, np.ones((5, 8, 12), np.uint8)), Options(axes=axes))
    assert [array.shape for array in client.inputs if array is not None] == [(3, 1, 8, 12), (1, 1, 5, 8, 12)]


def test_labels_are_asked_for_and_written_without_a_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PLANE)
    model = Model("m", [IMAGE], [TensorAxes("flows", "bcyx", 3, "float32"), IMAGE]).with_labels
    assert model.outputs == [TensorAxes("labels", "byx", None, "int32", replaces="flows"), IMAGE]
    client = Gives(np.arange(96, dtype=np.int32).reshape(1, 8, 12))
    report = run(model, client, Job([tmp_path / "x.npy"], {0: tmp_path / "o.tif"}), Options(axes="yx", labels=True))
    assert client.labels and [(each.shape, each.dtype) for each in report.written] == [((8, 12), "int32")]
    assert client.wanted == ["flows"], "a request knows the model's outputs alone"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif"), np.arange(96).reshape(8, 12))


def test_advice_for_one_of_several_images_works_when_it_is_followed(tmp_path: Path) -> None:
    job, axes, seen = pair(tmp_path, np.ones((2, 5, 8, 12), np.uint8)), None, []
    for _ in range(5):
        try:
            run(PAIR, Gives(np.zeros((3, 1, 8, 12), np.float32)), job, Options(axes=axes))
            break
        except UnclearAxes as error:
            (axes,) = re.findall(r'letter for each: --axes "([a-z,]+)"', str(error))
            seen.append((str(error).split(" has ")[0], axes))
    assert seen == [("The image x.npy", "byx,"), ("The image mask.npy", "byx,bzyx")] and (tmp_path / "o.npy").exists()


def test_a_list_of_axes_for_others(tmp_path: Path) -> None:
    job = pair(tmp_path, np.ones((5, 8, 12), np.uint8))
    with pytest.raises(WrongAxesCount, match=r"for 3 images, but a run takes 2 images \(x\.npy, mask\.npy\).*--axes yx,yx"):
        run(PAIR, Gives(), job, Options(axes="yx,{},zyx"))
    with pytest.raises(UnclearAxes, match=r"The image x\.npy has the shape"):
        run(PAIR, Gives(), job, Options(axes="yx,{}"))


def test_errors_of_values_and_channels_name_the_image(tmp_path: Path) -> None:
    job = pair(tmp_path, np.full((5, 8, 12), 300))
    with pytest.raises(WrongValues, match=r"The image mask\.npy has int64 values"):
        run(PAIR, Gives(), job, Options(axes="byx,"))
    with pytest.raises(WrongChannels, match=r"The image x\.npy has 3 channels.*--axes \"byx,\""):
        run(PAIR, Gives(), job, Options(axes="cyx,"))


def test_a_result_that_turns_out_not_to_fit_is_a_tiff_beside(tmp_path: Path) -> None:
    """The model says of no output how many channels it has; what is there already stays."""
    np.save(tmp_path / "x.npy", PLANE)
    model = Model("m", [TensorAxes("image", "bcyx", 1)], [TensorAxes("classes", "bcyx", None)])
    job = Job([tmp_path / "x.npy"], {0: tmp_path / "o.png"})
    output = np.stack([PLANE] * 2)[None]
    for name in ("o.tif", "o-1.tif"):
        report = run(model, Gives(output), job, Options(overwrite=True))
        assert [written.file.name for written in report.written] == [name]
        assert (
            f"{name}: it was written instead of o.png: a PNG holds one 2D image, but this has the shape (2, 8, 12)."
            in report.notes
        )
        np.testing.assert_array_equal(read_image(tmp_path / name).data, output[0])
    assert {file.name for file in tmp_path.iterdir()} == {"x.npy", "o.tif", "o-1.tif"}


def test_only_the_outputs_that_are_written_are_asked_for(tmp_path: Path) -> None:
    """Then an image is cut into tiles although another output of the model is none."""
    np.save(tmp_path / "x.npy", PLANE)
    model = Model("m", [TensorAxes("image", "bcyx", 1)], [TensorAxes(name, "bcyx", 1) for name in ("one", "two", "three")])
    results = [np.full((1, 1, 8, 12), value, np.float32) for value in (1, 3)]
    client, job = Gives(*results), Job([tmp_path / "x.npy"], {2: tmp_path / "three.npy", 0: tmp_path / "one.npy"})
    report = run(model, client, job)
    assert client.wanted == ["one", "three"] and report.left_out == ["two"]
    assert (np.load(tmp_path / "one.npy") == 1).all() and (np.load(tmp_path / "three.npy") == 3).all()
    run(
        model,
        client := Gives(*results, results[0]),
        Job(job.images, dict.fromkeys(range(3), tmp_path / "o.npy")),
        Options(overwrite=True),
    )
    assert client.wanted is None


def test_a_result_that_no_image_holds_is_an_array(tmp_path: Path) -> None:
    """Such as one of words."""
    np.save(tmp_path / "x.npy", PLANE)
    model = Model("m", [TensorAxes("image", "bcyx", 1)], [TensorAxes("words", "bcyx", 1)])
    words = np.full((1, 1, 8, 12), "cell")
    (tmp_path / "o.npy").touch()
    report = run(model, Gives(words), Job([tmp_path / "x.npy"], {0: tmp_path / "o.tif"}), Options(overwrite=True))
    assert [written.file.name for written in report.written] == ["o-1.npy"]
    assert (np.load(tmp_path / "o-1.npy") == "cell").all() and (tmp_path / "o.npy").read_bytes() == b""
    assert not (tmp_path / "o.tif").exists() and "written instead of o.tif: " in report.notes[-1]


def test_what_is_written_instead_takes_no_place_of_another_result(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PLANE)
    model = Model("m", [TensorAxes("image", "bcyx", 1)], [TensorAxes("classes", "bcyx"), TensorAxes("1", "bcyx", 2)])
    job = Job([tmp_path / "x.npy"], {0: tmp_path / "o.png", 1: tmp_path / "o.tif"})
    outputs = [np.stack([PLANE] * 2)[None], np.stack([PLANE] * 5)[None]]
    report = run(model, Gives(*outputs), job, Options(overwrite=True))
    assert [(written.file.name, written.shape[0]) for written in report.written] == [("o-1.tif", 2), ("o.tif", 5)]
    assert all(read_image(written.file).data.shape == written.shape for written in report.written)


@pytest.mark.parametrize(
    ("takes", "gives", "given", "made", "pixels"),
    [
        ({"min": [1, 1, 188, 188], "step": [0, 0, 16, 16]}, ([1, 1, 1, 1], [0, 0, -92, -92]), (300, 400), (116, 216), (1, 1)),
        ({"min": [1, 1, 8, 8], "step": [0, 0, 8, 8]}, ([1, 1, 0.5, 0.25], [0, 0, 0, 0]), (13, 17), (6, 4), (2, 4)),
        ([1, 1, 572, 572], [1, 1, 388, 388], (600, 700), (416, 516), (1, 1)),
        ([1, 1, 64, 64], [1, 2, 32, 128], (13, 17), (6, 34), (2, 0.5)),
        ([1, 1, 64, 64], ([1, 0, 1, 2], [0, 1, 0, 0]), (13, 17), (13, 34), (1, 0.5)),
    ],
)
def test_pixels_have_the_size_of_the_model_s_scale(
    tmp_path: Path, takes: Any, gives: Any, given: tuple[int, int], made: tuple[int, int], pixels: tuple[float, float]
) -> None:
    """Not of the sizes of both images, where the result lacks pixels at its ends, or a part of one."""
    if isinstance(gives, tuple):
        gives = {"reference_tensor": "in", "scale": gives[0], "offset": gives[1]}
    common = {"axes": "bcyx", "data_type": "float32"}
    rdf = {"inputs": [{**common, "name": "in", "shape": takes}], "outputs": [{**common, "name": "out", "shape": gives}]}
    write_image(tmp_path / "x.tif", Image(np.ones(given, np.float32), "yx", PixelSize(0.5, 0.5, None, "um")))
    output = np.ones((1, 1, *made), np.float32)
    run(Model.of("m", rdf), Gives(output), Job([tmp_path / "x.tif"], {0: tmp_path / "o.tif"}))
    near: Any = pytest.approx
    assert read_image(tmp_path / "o.tif").pixel_size == PixelSize(near(0.5 * pixels[0]), near(0.5 * pixels[1]), None, "um")
