"""Apps answer the calls of the public server's programs, and labels come with a request; in a real stack, with small weights."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import tritonclient.http as triton_http

from tests.packages.discs import agreement, discs, hills, photographed
from tests.stack.harness import ENVIRONMENTS, ROOT, Client, Stack, bioengine, fill_home, python
from tests.tiers import cases

SHAPE = (160, 200)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what `tests.packages.objects` makes."""
    folder = tmp_path_factory.mktemp("objects") / "made"
    subprocess.run([python("labels"), "-m", "tests.packages.objects", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def apps_stack(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with all apps, installed by the command."""
    home = tmp_path_factory.mktemp("apps") / "hö me"  # of a name that is as good as another
    fill_home(home, networks / "packages")
    for name, *weights in (
        ("cellpose", "--weights", f"nuclei={networks / 'nuclei.pth'}"),
        ("stardist", "--model", "starry-grid"),
        ("bestfitting", "--weights", str(networks / "bestfitting.onnx")),
    ):
        made = bioengine("apps", "install", name, *weights, "--accept-licence", "--home", str(home))
        assert made.returncode == 0, made.stderr
    with Stack(home) as running:
        yield running


@pytest.fixture(scope="module")
def client(apps_stack: Stack) -> Iterator[Client]:
    with apps_stack.client() as connected:
        yield connected


@pytest.mark.parametrize("last", cases([False, True], core=[True]))
def test_cellpose_as_it_was_called(client: Client, last: bool) -> None:
    image = np.zeros((3, *SHAPE), np.float32)
    image[0] = photographed(hills(SHAPE))
    sent = image.transpose(1, 2, 0) if last else image
    parameters = {"diameter": 12, "model_type": "nuclei"}
    result = client.triton.execute(inputs=[sent, parameters], model_name="cellpose-python", decode_json=True)
    mask = result["mask"]
    assert (mask.shape, mask.dtype) == ((1, *SHAPE), np.uint16)
    assert agreement(mask[0], discs(SHAPE)).min() > 0.5
    (info,) = np.ravel(result["info"])
    assert info == {"model_type": "nuclei", "diameter": 12, "objects": int(discs(SHAPE).max())}


@pytest.mark.extended
def test_a_program_of_imjoy_rpc_only_changes_its_server_url(apps_stack: Stack, tmp_path: Path) -> None:
    image = np.zeros((*SHAPE, 3), np.uint16)
    image[..., 0] = photographed(hills(SHAPE))
    np.save(tmp_path / "image.npy", image)
    program = [
        python("client-imjoy"),
        "apps_program.py",
        apps_stack.url,
        str(tmp_path / "image.npy"),
        str(tmp_path / "masks.npz"),
    ]
    run = subprocess.run(program, cwd=ROOT / "tests" / "clients", capture_output=True, text=True, timeout=120)
    assert "passed" in run.stdout, run.stderr
    masks = np.load(tmp_path / "masks.npz")
    assert masks["cellpose"].dtype == masks["stardist"].dtype == np.uint16
    assert masks["cellpose"].max() == discs(SHAPE).max()


@pytest.mark.extended
def test_cellpose_with_the_diameter_of_its_weights(client: Client) -> None:
    image = photographed(hills(SHAPE)).astype(np.float32)[np.newaxis]
    result = client.triton.execute(inputs=[image, {}], model_name="cellpose-python", decode_json=True)
    assert np.ravel(result["info"])[0]["diameter"] == 12
    assert result["mask"].max() == discs(SHAPE).max()


@pytest.mark.parametrize(
    ("image", "parameters", "problem"),
    [
        (np.zeros((1, 64, 64), np.float32), {"model_type": "cyto"}, "no weights for the model_type 'cyto' here, only for nuclei"),
        (np.zeros((1, 64, 64), np.float32), {"diametre": 3}, "Did you mean 'diameter'"),
        (np.zeros((60, 64, 64), np.float32), {}, "at most 5 channels"),
    ],
)
def test_what_cellpose_cannot_do_is_said(client: Client, image: np.ndarray, parameters: dict[str, Any], problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        client.triton.execute(inputs=[image, parameters], model_name="cellpose-python")


@pytest.mark.parametrize("parameters", [{}, {"diameter": 30}, {"prob_thresh": 0.5, "nms_thresh": 0.3}])
def test_stardist_as_it_was_called(client: Client, parameters: dict[str, Any]) -> None:
    image = photographed(discs(SHAPE).astype(bool))
    result = client.triton.execute(inputs=[image, parameters], model_name="stardist", decode_json=True)
    mask = result["mask"]
    assert (mask.shape, mask.dtype) == (SHAPE, np.uint16)
    assert agreement(mask, discs(SHAPE)).min() > 0.7
    assert mask.max() == discs(SHAPE).max()


def test_stardist_over_tritons_own_protocol(apps_stack: Stack) -> None:
    image = photographed(discs(SHAPE).astype(bool))
    with triton_http.InferenceServerClient(f"127.0.0.1:{apps_stack.port}/triton") as triton:
        assert triton.get_model_config("stardist")["input"][0]["data_type"] == "TYPE_UINT16"
        tensors = [triton_http.InferInput("image", list(SHAPE), "UINT16"), triton_http.InferInput("param", [1], "BYTES")]
        tensors[0].set_data_from_numpy(image)
        tensors[1].set_data_from_numpy(np.array([b"{}"], dtype=np.object_))
        mask = triton.infer("stardist", tensors).as_numpy("mask")
    assert mask.shape == SHAPE and mask.max() == discs(SHAPE).max()


def test_the_classifier_as_it_was_called(client: Client) -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 128, 128)).astype(np.float32) / 255
    result = client.triton.execute(inputs=[image], model_name="bestfitting-inceptionv3-single-cell")
    assert result["classes"].shape == (19,) and result["features"].shape == (2048,)
    assert len([probability for probability in result["classes"].tolist() if probability > 0.5]) > 0


@pytest.mark.parametrize("id", cases(["starry-grid", "starry-repeated", "flowing-river"], core=["starry-grid"]))
@pytest.mark.parametrize("tile", [None, 96])
def test_labels_of_whole_images(client: Client, id: str, tile: int | None) -> None:
    shape = (161, 203)  # no multiple of anything
    image = hills(shape) if id == "flowing-river" else discs(shape).astype(bool).astype(np.float32)
    more = {} if tile is None else {"tile": tile}
    result = client.run(id, [np.stack([image, image[::-1]])], axes="byx", labels=True, **more)
    assert result["success"], result
    (labels,) = result["outputs"]
    assert (labels.shape, labels.dtype) == ((2, *shape), np.int32)
    for found, drawn in zip(labels, (discs(shape), discs(shape)[::-1])):
        assert agreement(found, drawn).min() > 0.6
        assert found.max() == drawn.max()


def test_labels_by_the_command(apps_stack: Stack, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", discs(SHAPE).astype(bool).astype(np.float32))
    arguments = ("run", "starry-grid", str(tmp_path / "x.npy"), "--axes", "yx", "--server-url", apps_stack.url)
    made = bioengine(*arguments, "--labels", "-o", str(tmp_path / "y.tif"))
    assert made.returncode == 0, made.stderr
    labels = tifffile.imread(tmp_path / "y.tif")
    assert labels.shape == SHAPE and labels.max() == discs(SHAPE).max()


def test_a_model_without_a_method_says_so(client: Client) -> None:
    result = client.run("drawn-nuclei", [np.zeros((72, 72), np.float32)], axes="yx", labels=True)
    assert (result["success"], result["code"]) == (False, "no_labels")
    assert "names no method that finds objects" in result["error"]


def test_the_apps_are_listed(apps_stack: Stack) -> None:
    listed = bioengine("apps", "list", "--home", str(apps_stack.home)).stdout.splitlines()
    assert [line.split()[2] for line in listed[1:]] == ["yes"] * 3
    assert (apps_stack.home / "triton-models" / "stardist" / "environment").resolve() == (ENVIRONMENTS / "labels").resolve()
