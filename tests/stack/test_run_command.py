"""`./bioengine run` and `demo`, and the model that comes with the project."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bioengine_server.demo.nuclei import dice, draw
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize
from skimage.filters import threshold_otsu

from tests.stack.harness import ROOT, Stack, bioengine, wait_for

pytestmark = pytest.mark.extended

MODEL = "drawn-nuclei"
PACKAGE = ROOT / "server" / "bioengine_server" / "packages" / MODEL
UNSEEN = range(16)


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
    environment = {"BIOENGINE_PORT": str(stack.port)}
    results = []
    for source, target in [("image.tif", "out.tif"), ("image.png", "out.npy"), ("image.npy", "out.npy")]:
        done = bioengine("run", MODEL, str(tmp_path / source), "-o", str(tmp_path / target), **environment)
        assert done.returncode == 0, done.stderr
        assert "float32" in done.stdout and " s" in done.stdout
        results.append(read_image(tmp_path / target))
    assert results[0].data.shape == (2, 256, 256) and results[1].data.shape == (1, 2, 256, 256)
    np.testing.assert_allclose(results[0].data, results[1].data[0], atol=1e-5)
    np.testing.assert_array_equal(results[1].data, results[2].data)
    assert abs((results[0].pixel_size.y or 0) - 0.1) < 1e-6 and results[0].pixel_size.unit == "micron"
    assert dice(results[0].data[0] > 0.5, drawn.labels > 0) > 0.9


def test_run_options(stack: Stack, tmp_path: Path) -> None:
    url = ["--server-url", stack.url]
    np.save(tmp_path / "left.npy", np.random.default_rng(0).random((16, 16), np.float32))
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((2, 80, 80), np.uint16), metadata={"axes": "QYX"})
    weights = bioengine("run", MODEL, str(tmp_path / "stack.tif"), "-o", str(tmp_path / "o.tif"), "--axes", "byx", *url)
    assert weights.returncode == 0 and read_image(tmp_path / "o.tif").data.shape == (2, 2, 80, 80), weights.stderr
    chosen = bioengine(
        "run", MODEL, str(tmp_path / "stack.tif"), "-o", str(tmp_path / "t.npy"), "--axes=byx", "--weights=torchscript", *url
    )
    assert chosen.returncode == 0
    np.testing.assert_allclose(read_image(tmp_path / "t.npy").data, read_image(tmp_path / "o.tif").data, atol=1e-4)
    folder = tmp_path / "many"
    both = bioengine("run", MODEL, *[str(tmp_path / "stack.tif")] * 2, "-o", str(folder), "--axes", "byx", *url)
    assert both.returncode == 0 and (folder / "stack.tif").exists()


def test_run_errors(stack: Stack, tmp_path: Path) -> None:
    url = ["--server-url", stack.url]
    np.save(tmp_path / "x.npy", np.zeros((76, 76), np.float32))
    out = str(tmp_path / "o.tif")
    for arguments, expected in [
        (["no-such-animal", "x.npy", "-o", out, *url], "No model 'no-such-animal' on this server"),
        ([MODEL, "nowhere.tif", "-o", out, *url], "nowhere.tif cannot be read: No such file or directory"),
        ([MODEL, "x.npy", "-o", out, "--axes", "zyx", *url], "Say what each axis of the image is with --axes"),
        ([MODEL, "x.npy", "x.npy", "-o", out, *url], "The model takes 1 image at a time (image), and 2 came"),
        (
            [MODEL, "x.npy", "-o", out, "--server-url", "http://127.0.0.1:9"],
            "Start one in another terminal with `./bioengine up`",
        ),
    ]:
        files = [str(tmp_path / item) if item.endswith((".npy", "nowhere.tif")) else item for item in arguments]
        attempt = bioengine("run", *files)
        assert attempt.returncode == 1 and expected in attempt.stderr, attempt.stderr
        assert "Traceback" not in attempt.stderr


def test_demo_starts_its_own_server(tmp_path: Path) -> None:
    environment = {"BIOENGINE_HOME": str(tmp_path / "home"), "BIOENGINE_OFFLINE": "1", "BIOENGINE_PORT": "9"}
    done = bioengine("demo", "-o", str(tmp_path / "pictures"), **environment)
    assert done.returncode == 0, done.stderr
    score = float(done.stdout.split("Dice against the drawing:")[1])
    assert score >= 0.95
    pictures = {name: read_image(tmp_path / "pictures" / f"{name}.png").data for name in ("input", "mask", "overlay")}
    assert pictures["input"].shape == pictures["mask"].shape == (256, 256) and pictures["overlay"].shape == (256, 256, 3)
    assert 0.03 < (pictures["mask"] == 255).mean() < 0.5
    assert Stack(tmp_path / "home").triton_processes() == [], "what it started has ended"


def test_the_server_of_a_demo_that_is_killed_ends_in_order(tmp_path: Path) -> None:
    server = Stack(tmp_path / "home")
    environment = {"BIOENGINE_PORT": str(server.port), "BIOENGINE_HOME": str(server.home), "BIOENGINE_OFFLINE": "1"}
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


def test_a_demo_whose_server_cannot_start_says_why_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = bioengine("demo", "-o", str(tmp_path / "pictures"), BIOENGINE_HOME=str(tmp_path / "file"), BIOENGINE_PORT="9")
    assert done.returncode == 1 and "Not a directory" in done.stderr and "--home FOLDER" in done.stderr
    assert not any(text in done.stderr for text in ("Traceback", "Fatal", "Thread")), done.stderr


def test_demo_uses_the_server_that_runs(stack: Stack, tmp_path: Path) -> None:
    done = bioengine("demo", "-o", str(tmp_path), BIOENGINE_PORT=str(stack.port), BIOENGINE_HOME=str(tmp_path / "unused"))
    assert done.returncode == 0 and not (tmp_path / "unused").exists(), done.stderr
