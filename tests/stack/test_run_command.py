"""`./bioengine run` and `demo`, and the model that comes with the project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from bioengine_server.demo.nuclei import dice, draw
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize
from skimage.filters import threshold_otsu

from tests.stack.harness import ROOT, Stack, bioengine, command, wait_for

MODEL = "drawn-nuclei"
PACKAGE = ROOT / "server" / "bioengine_server" / "packages" / MODEL
UNSEEN = range(16)


@pytest.mark.extended
def test_the_shipped_model_beats_otsu(stack: Stack) -> None:
    """On images that training never saw: Dice at least 0.95, where Otsu's threshold has at most 0.80."""
    drawn = [draw(seed) for seed in UNSEEN]
    with stack.client() as client:
        masks = [client.run(MODEL, [item.image[None, None]])["outputs"][0][0, 0] > 0.5 for item in drawn]
    of_model = np.mean([dice(mask, item.labels > 0) for mask, item in zip(masks, drawn)])
    of_otsu = np.mean([dice(item.image > threshold_otsu(item.image), item.labels > 0) for item in drawn])
    print(f"Dice of {MODEL} {of_model:.3f}, of Otsu's threshold {of_otsu:.3f}, mean of {len(drawn)} images")
    assert of_model >= 0.95 and of_otsu <= 0.80


def test_the_shipped_model_is_small_and_complete() -> None:
    files = {file.name: file.stat().st_size for file in PACKAGE.iterdir()}
    assert sum(files.values()) <= 2_000_000
    assert set(files) >= {"rdf.yaml", "weights.onnx", "weights_torchscript.pt", "test_input.npy", "test_output.npy", "cover.png"}


def test_its_seeds_were_not_seen() -> None:
    script = (ROOT / "model_runner" / "training" / "train_nuclei.py").read_text()
    assert "TRAINING_SEEDS = range(1_000_000, 1_000_900)" in script and max(UNSEEN) < 1_000_000


def test_run_on_files(stack: Stack, tmp_path: Path) -> None:
    drawn = draw(3)
    write_image(tmp_path / "image.tif", Image(drawn.image, "yx", PixelSize(0.1, 0.2, None, "micron")))
    write_image(tmp_path / "image.png", Image(drawn.image, "yx"))
    np.save(tmp_path / "image.npy", drawn.image)
    environment: Any = {"BIOENGINE_PORT": str(stack.port)}
    results = []
    for source, target in [("image.tif", "out.tif"), ("image.png", "out.npy"), ("image.npy", "same.npy")]:
        arguments = ["run", MODEL, str(tmp_path / source), "-o", str(tmp_path / target)]
        if source == "image.tif":  # as a process of its own
            alone = bioengine(*arguments, **environment)
            status, said, failure = alone.returncode, alone.stdout, alone.stderr
        else:
            done = command(*arguments, **environment)
            status, said, failure = done.exit_code, done.stdout, done.stderr
        assert status == 0, failure
        assert "float32" in said and " s" in said
        results.append(read_image(tmp_path / target))
    assert results[0].data.shape == (2, 256, 256) and results[1].data.shape == (1, 2, 256, 256)
    np.testing.assert_allclose(results[0].data, results[1].data[0], atol=1e-5)
    np.testing.assert_array_equal(results[1].data, results[2].data)
    assert abs((results[0].pixel_size.y or 0) - 0.1) < 1e-6 and results[0].pixel_size.unit == "micron"
    assert dice(results[0].data[0] > 0.5, drawn.labels > 0) > 0.9


@pytest.mark.extended
def test_run_options(stack: Stack, tmp_path: Path) -> None:
    url = ["--server-url", stack.url]
    np.save(tmp_path / "left.npy", np.random.default_rng(0).random((16, 16), np.float32))
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((2, 80, 80), np.uint16), metadata={"axes": "QYX"})
    weights = command("run", MODEL, str(tmp_path / "stack.tif"), "-o", str(tmp_path / "o.tif"), "--axes", "byx", *url)
    assert weights.exit_code == 0 and read_image(tmp_path / "o.tif").data.shape == (2, 2, 80, 80), weights.stderr
    chosen = command(
        "run", MODEL, str(tmp_path / "stack.tif"), "-o", str(tmp_path / "t.npy"), "--axes=byx", "--weights=torchscript", *url
    )
    assert chosen.exit_code == 0
    np.testing.assert_allclose(read_image(tmp_path / "t.npy").data, read_image(tmp_path / "o.tif").data, atol=1e-4)


@pytest.mark.extended
def test_run_errors(stack: Stack, tmp_path: Path) -> None:
    url = ["--server-url", stack.url]
    np.save(tmp_path / "x.npy", np.zeros((76, 76), np.float32))
    np.save(tmp_path / "unit.npy", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    out = str(tmp_path / "o.tif")
    for arguments, expected in [
        (["no-such-animal", "x.npy", "-o", out, *url], "No model 'no-such-animal' on this server"),
        ([MODEL, "nowhere.tif", "-o", out, *url], "nowhere.tif cannot be read: No such file or directory"),
        ([MODEL, "x.npy", "-o", out, "--axes", "zyx", *url], "with --axes, one letter for each: --axes yx."),
        ([MODEL, "x.npy", "x.npy", "-o", out, *url], "The model takes 1 image at a time (image), but 2 were given"),
        ([MODEL, "x.npy", "-o", f"{tmp_path}/o.jpg", *url], "Give a file that ends in .tif, .npy, .png, .csv, or a folder"),
        ([MODEL, "x.npy", "-o", f"{tmp_path}/o.png", *url], "a PNG holds one channel or three, but there are 2"),
        (["score-scout", "x.npy", "-o", out, *url], "Give a file that ends in .csv or .npy, or a folder"),
        (["label-doubler", "unit.npy", "-o", out, *url], "values from 0 to 1, but the model takes uint8"),
        ([MODEL, "x.npy", "-o", out, "--server-url", stack.url.removeprefix("http://")], f"Write {stack.url}."),
        ([MODEL, "x.npy", "-o", out, "--server-url", stack.url.replace("http", "https")], f"Use {stack.url} "),
        (
            [MODEL, "x.npy", "-o", out, "--server-url", "http://127.0.0.1:9"],
            "Start one in another terminal with `./bioengine up`",
        ),
    ]:
        files = [str(tmp_path / item) if item.endswith((".npy", "nowhere.tif")) else item for item in arguments]
        attempt = command("run", *files)
        assert attempt.exit_code == 1 and expected in attempt.stderr, attempt.stderr
        assert not any(text in attempt.stderr for text in ("Traceback", "np.", "inputs=[", "astype")), attempt.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"x.npy", "unit.npy"}


@pytest.mark.extended
def test_nothing_of_the_users_is_overwritten(stack: Stack, tmp_path: Path) -> None:
    """With the images' own folder as that of the results; and images that fail leave the others done."""
    (tmp_path / "other").mkdir()
    drawn = draw(3).image[:80, :96]
    for name in ("a.tif", "a.png", "other/a.tif"):
        write_image(tmp_path / name, Image(drawn, "yx"))
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:300])
    images = [tmp_path / name for name in ("a.tif", "b.tif", "nowhere.tif", "a.png", "other/a.tif")]
    before = {file: file.read_bytes() for file in images if file.exists()}
    arguments = ["run", "old-otter", *map(str, images), "-o", str(tmp_path), "--server-url", stack.url]
    done = command(*arguments)
    assert done.exit_code == 1 and done.stdout.count(" float32, ") == 3
    assert done.stderr.startswith("bioengine: 2 of 5 failed:\n") and len(done.stderr.splitlines()) == 3, done.stderr
    results = {file: file.read_bytes() for file in tmp_path.rglob("*_old-otter.tif")}
    assert len(results) == 3
    assert {file: file.read_bytes() for file in before} == before
    again = command(*arguments)
    assert again.exit_code == 1 and "already exist" in again.stderr and "--overwrite" in again.stderr
    assert {file: file.read_bytes() for file in results} == results
    images = [tmp_path / "a.tif", tmp_path / "a.png"]
    replaced = command(*arguments[:2], *map(str, images), *arguments[-4:], "--overwrite")
    assert replaced.exit_code == 0 and replaced.stderr == "", "a run that ends well warns of nothing"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.extended
def test_scores_are_written_as_numbers(stack: Stack, tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((16, 16), np.float32)
    write_image(tmp_path / "x.tif", Image(image, "yx"))
    done = command(
        "run", "score-scout", str(tmp_path / "x.tif"), "-o", str(tmp_path / "out"), "--all-outputs", "--server-url", stack.url
    )
    assert done.exit_code == 0 and "The output 'scores' (axes bc) is not an image" in done.stdout, done.stderr
    scores = np.loadtxt(tmp_path / "out" / "x_score-scout.csv", delimiter=",")
    np.testing.assert_allclose(scores, [image.mean(), -image.mean()], rtol=1e-5)
    np.testing.assert_allclose(read_image(tmp_path / "out" / "x_score-scout-doubled.tif").data, image * 2)


@pytest.mark.extended
def test_what_is_known_of_an_image_is_said(stack: Stack, tmp_path: Path) -> None:
    """To stderr; stdout has the results alone."""
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for side in (8, 80):
            file.write(np.zeros((side, side), np.uint16), metadata=None)
    run = ("run", MODEL, str(tmp_path / "x.tif"), "-o", str(tmp_path / "y.tif"), "--server-url", stack.url)
    done = command(*run)
    assert done.exit_code == 0 and done.stdout.count("\n") == 1
    assert done.stderr.startswith("bioengine: note: x.tif: it has 2 images")
    assert read_image(tmp_path / "y.tif").data.shape[-1] == 80
    done = command(*run, "--series", "1", "--overwrite")
    assert done.exit_code == 0 and done.stderr == "" and read_image(tmp_path / "y.tif").data.shape[-1] == 8


@pytest.mark.extended
def test_demo_starts_its_own_server(tmp_path: Path) -> None:
    environment: Any = {"BIOENGINE_HOME": str(tmp_path / "home"), "BIOENGINE_OFFLINE": "1", "BIOENGINE_PORT": "9"}
    done = bioengine("demo", "-o", str(tmp_path / "pictures"), **environment)
    assert done.returncode == 0, done.stderr
    score = float(done.stdout.split("Dice against the drawing:")[1])
    assert score >= 0.95
    pictures = {name: read_image(tmp_path / "pictures" / f"{name}.png").data for name in ("input", "mask", "overlay")}
    assert pictures["input"].shape == pictures["mask"].shape == (256, 256) and pictures["overlay"].shape == (256, 256, 3)
    assert 0.03 < (pictures["mask"] == 255).mean() < 0.5
    assert Stack(tmp_path / "home").triton_processes() == [], "what it started has ended"


@pytest.mark.extended
def test_the_server_of_a_demo_that_is_killed_ends_in_order(own_home: Path, tmp_path: Path) -> None:
    server = Stack(own_home)
    environment: Any = {"BIOENGINE_PORT": str(server.port), "BIOENGINE_HOME": str(server.home), "BIOENGINE_OFFLINE": "1"}
    demo = subprocess.Popen(
        [ROOT / "bioengine", "demo", "-o", str(tmp_path / "pictures")],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: server.shared_memory() and server.triton_processes(), 60, "Triton started")
    demo.kill()
    demo.wait()
    wait_for(lambda: not server.leftovers(), 20, "all ended")


@pytest.mark.extended
def test_a_demo_whose_server_cannot_start_says_why_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = bioengine("demo", "-o", str(tmp_path / "pictures"), BIOENGINE_HOME=str(tmp_path / "file"), BIOENGINE_PORT="9")
    assert done.returncode == 1 and "Not a directory" in done.stderr and "--home FOLDER" in done.stderr
    assert not any(text in done.stderr for text in ("Traceback", "Fatal", "Thread")), done.stderr


def test_demo_uses_the_server_that_runs(stack: Stack, tmp_path: Path) -> None:
    environment: Any = {"BIOENGINE_PORT": str(stack.port), "BIOENGINE_HOME": str(tmp_path / "unused")}
    done = bioengine("demo", "-o", str(tmp_path), **environment)
    assert done.returncode == 0 and done.stderr == "" and not (tmp_path / "unused").exists(), done.stderr
    (tmp_path / "mask.png").write_text("my own")
    for output, reason in ((tmp_path, "already exist"), (tmp_path / "mask.png", "mask.png is a file, not a folder")):
        refused = command("demo", "-o", str(output))
        assert refused.exit_code == 1 and reason in refused.stderr and "Traceback" not in refused.stderr
    assert (tmp_path / "mask.png").read_text() == "my own"
    assert command("demo", "-o", str(tmp_path), "--overwrite", "--server-url", stack.url).exit_code == 0
    assert read_image(tmp_path / "mask.png").data.shape == (256, 256)
