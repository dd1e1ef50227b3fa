"""Where the results of `run` go: no image is overwritten, no two results share a file, and all is known before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bioengine_contract.errors import BioEngineError
from bioengine_server.images.errors import NoFormat, NoName, OutputIsInput, SameOutput, WrongImageCount, WrongKind
from bioengine_server.images.model import Model, TensorAxes
from bioengine_server.images.plan import check_batch, plan_runs
from bioengine_server.output_file import OutputExists, OutputNotPossible

IMAGE = TensorAxes("image", "bcyx", 1, "float32")
MASK = TensorAxes("mask", "bcyx", 1, "float32")
SCORES = TensorAxes("scores", "bc", 4, "float32")
BOXES = TensorAxes("boxes", "bic", 4, "float32")

ONE = Model("old-otter", [IMAGE], [MASK])
TWO = Model("two-inputs", [IMAGE, IMAGE], [MASK, TensorAxes("edges", "bcyx", 2, "float32")])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(*names: str) -> list[Path]:
    paths = [Path(name) for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def results(model: Model, files: list[Path], output: str, **options: bool) -> list[list[str]]:
    return [[str(file) for file in job.outputs.values()] for job in plan_runs(files, model, output, **options)]


def test_a_file_for_one_run_and_a_folder_for_several() -> None:
    files = images("a.tif", "b.tif", "c.npy", "d.png")
    assert results(ONE, files[:1], "out.npy") == [["out.npy"]]
    assert results(ONE, files, "out") == [
        ["out/a_old-otter.tif"],
        ["out/b_old-otter.tif"],
        ["out/c_old-otter.npy"],
        ["out/d_old-otter.tif"],
    ]
    jobs = plan_runs(files, TWO, "out")
    assert [job.images for job in jobs] == [files[:2], files[2:]]
    for model, few, output in [(ONE, files[:2], "out.tif"), (TWO, files[:3], "out")]:
        with pytest.raises(WrongImageCount):
            plan_runs(few, model, output)


def test_a_folder_may_be_that_of_the_images() -> None:
    files = images("scans/a.tif", "scans/b.tif")
    assert results(ONE, files, "scans") == [["scans/a_old-otter.tif"], ["scans/b_old-otter.tif"]]


def test_an_id_is_part_of_a_name_and_no_path() -> None:
    files = images("a.tif")
    assert results(Model("10.5281/zenodo.5869899", [IMAGE], [MASK]), files, "out") == [["out/a_10.5281-zenodo.5869899.tif"]]
    odd = Model("m", [IMAGE], [MASK, TensorAxes("../../etc/x", "bcyx")])
    assert results(odd, files, "out.tif", all_outputs=True) == [["out.tif", "out-..-..-etc-x.tif"]]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.tif", "b/x.tif"], ["a-x", "b-x"]),
        (["x.png", "x.tif"], ["x-png", "x-tif"]),
        (["x.tif", "X.tif", "y.tif"], None),
        (["a/x.tif", "b/x.tif", "a-x.tif"], None),
        (["a/x.png", "a/x.tif", "b/x.tif"], None),
        (["1/a/x.tif", "2/a/x.tif"], None),
        (["caf\u00e9.tif", "cafe\u0301.tif"], None),
    ],
)
def test_results_of_images_with_one_name_have_names_of_their_own(names: list[str], expected: list[str] | None) -> None:
    (found) = [file for (file,) in results(ONE, images(*names), "out")]
    assert len({name.casefold() for name in found}) == len(names) and all(name.startswith("out/") for name in found)
    if expected is not None:
        assert found == [f"out/{name}_old-otter.tif" for name in expected]


def test_the_other_images_of_a_run_tell_it_from_others() -> None:
    files = images("a.tif", "b.tif", "a.tif", "c.tif")
    assert [pair[0] for pair in results(TWO, files, "out")] == ["out/a-b_two-inputs.tif", "out/a-c_two-inputs.tif"]


def test_optional_inputs() -> None:
    """Left out in a folder of many; taken where there are images for them."""
    files = images("a.tif", "b.tif", "c.tif")
    mask = TensorAxes("mask", "bcyx", 1, "float32", optional=True)
    model = Model("m", [mask, IMAGE, mask], [MASK])
    assert [job.images for job in plan_runs(files, model, "out")] == [[file] for file in files]
    assert [job.images for job in plan_runs(files, model, "out.tif")] == [files]
    assert [model.inputs_of(count) for count in (1, 2, 3)] == [[1], [0, 1], [0, 1, 2]]
    with pytest.raises(WrongImageCount):
        plan_runs([*files, Path("d.tif")], model, "out.tif")


def test_an_image_that_is_given_twice() -> None:
    files = images("a.tif", "a.tif")
    with pytest.raises(SameOutput, match=r"a\.tif is given twice.*Give it only once"):
        plan_runs(files, ONE, "out")
    with pytest.raises(SameOutput, match=r"a\.tif is given twice.*Give it only once"):
        plan_runs([files[0], Path("out/../a.tif")], ONE, "out")
    assert len(plan_runs(files, TWO, "out")) == 1, "as both inputs of one run"


def test_outputs_whose_names_are_the_same_as_parts_of_files() -> None:
    names = ["edge (1)", "edge [1]", "edge-1-", "EDGE-1-", "edge-1--2", "edge (1)"]
    model = Model("m", [IMAGE], [MASK, *(TensorAxes(name, "bcyx") for name in names)])
    ((first, *others),) = results(model, images("x.tif"), "o.tif", all_outputs=True)
    assert first == "o.tif" and others[:3] == ["o-edge-1-.tif", "o-edge-1--2.tif", "o-edge-1--3.tif"]
    assert len({name.casefold() for name in others}) == len(names)


def test_outputs_that_a_link_makes_one_file() -> None:
    Path("o-edges.tif").symlink_to("o.tif")
    with pytest.raises(
        SameOutput, match=r"Two outputs of the model for x\.tif, y\.tif would be the same file.*leave out --all-"
    ) as caught:
        plan_runs(images("x.tif", "y.tif"), TWO, "o.tif", all_outputs=True)
    assert "given twice" not in str(caught.value)


def test_optional_images_are_named_as_such() -> None:
    files = images("a.tif", "b.tif", "c.tif")
    model = Model("m", [IMAGE, TensorAxes("mask", "bcyx", 1, optional=True)], [MASK])
    with pytest.raises(
        WrongImageCount, match=r"takes 1 image at a time \(image; optional, .*: mask\), but 3 were given for o\.tif"
    ):
        plan_runs(files, model, "o.tif")
    with pytest.raises(
        WrongImageCount, match=r"takes 2 images at a time \(image, image\), but 3 were given for o. Give as many for each run"
    ):
        plan_runs(files, TWO, "o")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (".tif", r"\.tif has a format but no name. Write a file such as result\.tif"),
        ("out/.csv", r"has a format but no name. Write a file such as out/result\.csv"),
        (".TIFF", "has a format but no name"),
        ("out.", r"out\. has no format after its dot. Write a file such as out\.tif"),
    ],
)
def test_half_a_name_is_no_folder(output: str, expected: str) -> None:
    with pytest.raises(NoName, match=expected):
        plan_runs(images("a.png"), ONE, output)
    assert results(ONE, images("a.png"), f"{output}/") == [[f"{output}/a_old-otter.tif"]], "said to be a folder"


@pytest.mark.parametrize("output", [".", "..", "./", ".results", "new/.results"])
def test_folders_with_dots(output: str) -> None:
    assert results(ONE, images("a.png"), output) == [[str(Path(output) / "a_old-otter.tif")]]


def test_long_names_are_cut_where_a_letter_ends() -> None:
    """A name may have 255 bytes, and those of images and outputs may have as many."""
    model = Model("\u9577" * 200, [IMAGE], [MASK, TensorAxes("\u00e9" * 300, "bcyx"), TensorAxes("\u00e9" * 299, "bcyx")])
    files = images(*("\u9577" * 80 + f"{number}.tif" for number in range(12)))
    found = [Path(name).name for names in results(model, files, "out", all_outputs=True) for name in names]
    assert len(set(found)) == 36 and max(len(name.encode()) for name in found) <= 255
    assert all(name.startswith("\u9577" * 10) for name in found)


LINKS: list[Callable[[Path, Path], None]] = [
    lambda image, other: other.symlink_to(image.name),
    os.link,
]


@pytest.mark.parametrize("link", LINKS, ids=["symbolic", "hard"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_is_never_an_input(folder: Path, overwrite: bool, link: Callable[[Path, Path], None]) -> None:
    files = images("a.tif", "b.tif", "scans/a.tif")
    link(files[0], Path("link.tif"))
    Path("same").symlink_to("scans")
    for given, output in [
        (files[0], "a.tif"),
        (files[0], "./scans/../a.tif"),
        (files[0], str(folder / "a.tif")),
        (files[0], "link.tif"),
        (Path("link.tif"), "a.tif"),
        (files[2], "same/a.tif"),
    ]:
        with pytest.raises(OutputIsInput, match="never overwritten"):
            plan_runs([given], ONE, output, overwrite=overwrite)
    with pytest.raises(OutputIsInput):
        plan_runs(files[:2], TWO, "b.tif", overwrite=overwrite)
    images("x-edges.tif")
    with pytest.raises(OutputIsInput):
        plan_runs([files[0], Path("x-edges.tif")], TWO, "x.tif", all_outputs=True, overwrite=overwrite)
    assert all(file.read_bytes() == b"" for file in files)


def test_an_existing_file_is_refused_before_anything_runs() -> None:
    files = images("a.tif", "b.tif")
    images("out/b_old-otter.tif", "x-edges.tif")
    with pytest.raises(OutputExists, match=r"out/b_old-otter\.tif already exists"):
        plan_runs(files, ONE, "out")
    assert len(plan_runs(files, ONE, "out", overwrite=True)) == 2
    with pytest.raises(OutputExists, match=r"x-edges\.tif already exists"):
        plan_runs(files, TWO, "x.tif", all_outputs=True)
    plan_runs(files, TWO, "x.tif")


@pytest.mark.parametrize("name", ["x.jpg", "x.JPEG", "x.ome.zarr", "results.v2"])
def test_a_suffix_that_is_not_written_is_no_folder(name: str) -> None:
    with pytest.raises(NoFormat, match=r"\.tif, \.npy, \.png, \.csv, or a folder"):
        plan_runs(images("a.tif"), ONE, name)
    assert results(ONE, images("a.tif"), f"{name}/") == [[f"{name}/a_old-otter.tif"]], "said to be a folder"
    Path(name).mkdir()
    assert results(ONE, images("a.tif"), name) == [[f"{name}/a_old-otter.tif"]], "seen to be a folder"


def test_suffixes_in_capitals() -> None:
    assert results(ONE, images("A.TIF"), "OUT.NPY") == [["OUT.NPY"]]
    assert results(ONE, images("A.NPY"), "out") == [["out/A_old-otter.npy"]]
    assert results(TWO, images("A.TIF", "B.TIF"), "OUT.TIFF", all_outputs=True) == [["OUT.TIFF", "OUT-edges.TIFF"]]


def test_a_file_is_no_folder() -> None:
    images("results", "x.tif")
    for output, says in (
        ("results", "its name does not say which format"),
        ("results/", "its name does not say which"),
        ("x.tif/", "without the slash, it"),
    ):
        with pytest.raises(OutputNotPossible, match=f"it is a file, not a folder; {says}"):
            plan_runs(images("a.tif"), ONE, output)


def test_scores_and_tables_are_numbers() -> None:
    (file,) = images("a.tif")
    model = Model("m", [IMAGE], [SCORES, MASK, BOXES])
    assert results(model, [file], "out", all_outputs=True) == [["out/a_m.csv", "out/a_m-mask.tif", "out/a_m-boxes.npy"]]
    assert results(model, images("a.npy"), "out") == [["out/a_m.npy"]]
    assert results(model, [file], "s.csv") == [["s.csv"]] and results(model, [file], "s.npy") == [["s.npy"]]
    assert results(Model("m", [IMAGE], [MASK, SCORES]), [file], "x.png", all_outputs=True) == [["x.png", "x-scores.csv"]]


@pytest.mark.parametrize(
    ("spec", "name", "reason"),
    [
        (SCORES, "s.tif", r"no y and x axes.*ends in \.csv or \.npy"),
        (SCORES, "s.png", r"no y and x axes.*ends in \.csv or \.npy"),
        (BOXES, "s.csv", r"only rows and columns.*ends in \.npy"),
        (MASK, "s.csv", r"it is an image.*ends in \.tif or \.npy or \.png"),
        (TensorAxes("m", "bcyx", 2), "s.png", r"one channel or three, but there are 2.*ends in \.tif or \.npy"),
        (TensorAxes("m", "bczyx", 1), "s.png", "one 2D image"),
        (TensorAxes("m", "bcyx", 1, "int32"), "s.png", "cannot hold int32"),
        (TensorAxes("m", "bcyx", 3, "uint16"), "s.png", "cannot hold uint16"),
    ],
)
def test_what_a_file_cannot_hold_is_said_before_the_run(spec: TensorAxes, name: str, reason: str) -> None:
    with pytest.raises(WrongKind, match=reason):
        plan_runs(images("a.tif"), Model("m", [IMAGE], [spec]), name)


def test_a_png_holds_one_of_a_batch() -> None:
    (job,) = plan_runs(images("a.tif"), ONE, "x.png")
    check_batch(job, ONE, 1)
    with pytest.raises(WrongKind, match="one image, but there are 5"):
        check_batch(job, ONE, 5)


def test_errors_are_one_line() -> None:
    with pytest.raises(BioEngineError) as caught:
        plan_runs(images("a\nb.tif"), ONE, "x\ny.jpg")
    assert "\n" not in str(caught.value)
