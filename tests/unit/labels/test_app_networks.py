"""The networks of the apps: files that fit are opened, others are refused with the reason, and none of them runs code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bioengine_runner.apps import stardist_network
from bioengine_runner.apps.cellpose_network import open_cellpose, read_weights
from bioengine_runner.apps.classifier_network import open_classifier, run_classifier
from bioengine_runner.apps.errors import AppWeightsRefused
from bioengine_runner.apps.stardist_network import StarDistNetwork, open_stardist
from bioengine_runner.labels.stardist import StarDistOptions

from tests.packages.discs import agreement, discs, hills
from tests.packages.objects import write_stardist


@pytest.mark.parametrize(("grid", "last"), [(1, True), (2, True), (2, False)])
def test_stardist_takes_any_size_and_tiles_change_nothing(
    tmp_path: Path, grid: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stardist(tmp_path / "network.onnx", grid, last)
    image = np.random.default_rng(0).random((421, 700)).astype(np.float32)
    whole = StarDistNetwork(tmp_path / "network.onnx")
    assert whole.output_grid == (grid, grid)
    expected = whole.predict(image)
    assert expected.shape == (-(-421 // grid), -(-700 // grid), 33)
    monkeypatch.setattr(stardist_network, "_BLOCK", 320)
    tiled = StarDistNetwork(tmp_path / "network.onnx")
    assert len(list(tiled._tiles(448, 704))) > 4
    np.testing.assert_allclose(tiled.predict(image), expected, atol=1e-6)


def test_what_stardists_own_files_say_is_used(tmp_path: Path) -> None:
    write_stardist(tmp_path / "network.onnx", 2)
    (tmp_path / "stardist.json").write_text(json.dumps({"prob_thresh": 0.48, "nms_thresh": 0.3}))
    _, options = open_stardist(tmp_path)
    assert options == StarDistOptions(0.48, 0.3, (2, 2))
    (tmp_path / "stardist.json").write_text(json.dumps({"grid": [4, 4]}))
    with pytest.raises(AppWeightsRefused, match=r"its grid is \(2, 2\), but its description says \(4, 4\)"):
        open_stardist(tmp_path)


def test_other_networks_are_refused(networks: Path, tmp_path: Path) -> None:
    with pytest.raises(AppWeightsRefused, match=r"its input is image: tensor\(float\) \[1, 4, 128, 128\]"):
        StarDistNetwork(networks / "bestfitting.onnx")
    with pytest.raises(AppWeightsRefused, match="ONNX Runtime cannot open it"):
        StarDistNetwork(networks / "nuclei.pth")
    with pytest.raises(AppWeightsRefused, match="it cannot be run"):
        open_classifier(networks / "stardist.onnx")


def test_the_classifier_gives_classes_and_features(networks: Path) -> None:
    session = open_classifier(networks / "bestfitting.onnx")
    outputs = run_classifier(session, np.full((4, 128, 128), 0.5, np.float32))
    assert {name: output.shape for name, output in outputs.items()} == {"classes": (19,), "features": (2048,)}
    assert ((0 < outputs["classes"]) & (outputs["classes"] < 1)).all()


def test_cellpose_finds_the_hills_with_weights_of_a_file(networks: Path) -> None:
    model = open_cellpose(networks / "nuclei.pth", on_gpu=False)
    assert model.diam_labels == model.diam_mean == 12
    image, drawn = hills((224, 224)), discs((224, 224))
    labels, _, _ = model.eval(image, channels=[0, 0], diameter=12)
    assert labels.max() == drawn.max()
    assert agreement(labels, drawn).min() > 0.6


def test_weights_of_cellpose_1_have_the_diameter_of_their_kind(networks: Path, tmp_path: Path) -> None:
    tensors = torch.load(networks / "nuclei.pth", weights_only=True)
    early = {name: tensor for name, tensor in tensors.items() if not name.startswith("diam_")}
    for name in ("nuclei", "cyto"):
        torch.save(early, tmp_path / f"{name}.pth")
    diameters = [open_cellpose(tmp_path / f"{name}.pth", on_gpu=False).diam_labels for name in ("nuclei", "cyto")]
    assert diameters == [17, 30]


def test_a_pickle_is_not_run(networks: Path) -> None:
    with pytest.raises(AppWeightsRefused, match="more than tensors, which is not opened because it could run code"):
        read_weights(networks / "code.pth")
    assert not (networks / "ran").exists()


def test_weights_that_are_not_cellposes_are_refused(networks: Path, tmp_path: Path) -> None:
    tensors = torch.load(networks / "nuclei.pth", weights_only=True)
    file, name = tmp_path / "odd.pth", "output.2.weight"
    for content, problem in (
        ({key: value for key, value in tensors.items() if key != name}, f"the tensor {name} is missing"),
        ({**tensors, name: torch.zeros(4, 32, 1, 1)}, rf"the tensor {name} has the shape \(4, 32, 1, 1\), not \(3, 32, 1, 1\)"),
        ([1, 2], "it is not a state dict"),
    ):
        torch.save(content, file)
        with pytest.raises(AppWeightsRefused, match=problem):
            read_weights(file)
    file.write_bytes(b"nothing")
    with pytest.raises(AppWeightsRefused, match=r"odd\.pth cannot be used"):
        read_weights(file)


@pytest.mark.parametrize(
    ("app", "file", "name", "problem"),
    [
        ("cellpose", "nuclei.pth", "nuclei.pth", ""),
        ("cellpose", "code.pth", "cyto.pth", "more than tensors"),
        ("bestfitting", "bestfitting.onnx", "network.onnx", ""),
        ("bestfitting", "stardist.onnx", "network.onnx", "it cannot be run"),
    ],
)
def test_files_are_checked_in_a_confined_process(
    networks: Path, tmp_path: Path, app: str, file: str, name: str, problem: str
) -> None:
    for folder in ("weights", "working"):
        (tmp_path / folder).mkdir()
    shutil.copyfile(networks / file, tmp_path / "weights" / name)
    command = [
        sys.executable,
        "-P",
        "-m",
        "bioengine_runner.apps.check",
        app,
        str(tmp_path / "weights"),
        str(tmp_path / "working"),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, problem in run.stderr) == (int(bool(problem)), True), run.stderr
    assert "Confined by" in run.stdout
