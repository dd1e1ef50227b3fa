"""What a result says where its image was padded or cut into tiles and the outputs are not exact for that."""

from __future__ import annotations

from typing import Any

import pytest
from bioengine_contract.manifest import Axis, Manifest, MeasuredHalo, SizeReference, Tensor
from bioengine_contract.tensors.errors import BadOutputs
from bioengine_contract.tensors.fit import fit_outputs
from bioengine_contract.tensors.resized import warnings_of_sizes

from tests.unit.contract.packages import manifest

BATCH, CHANNEL = Axis("batch", "batch", 1, 1), Axis("channel", "channel", 1, 0)


def model(least: int, step: int, scale: float = 1.0, offset: int = 0, halo: MeasuredHalo | None = None) -> Manifest:
    """An image in; an image and a score out."""
    image = Tensor("image", "float32", (BATCH, CHANNEL, *(Axis(id, "space", least, step) for id in "yx")))
    following = [Axis(id, "space", 1, 1, SizeReference("image", id, scale, offset)) for id in "yx"]
    if step == 0:
        following = [Axis(id, "space", int(least * scale) + offset, 0) for id in "yx"]
    outputs = (Tensor("mask", "float32", (BATCH, CHANNEL, *following)), Tensor("score", "float32", (BATCH, CHANNEL)))
    return manifest(image, outputs=outputs, halo=halo)


def said(of: Manifest, y: int, x: int, outputs: str = "mask score", tile: dict[str, int] | None = None) -> list[str]:
    return warnings_of_sizes(of, [(1, 1, y, x)], tile, outputs.split())


@pytest.mark.parametrize("step", [0, 16])
def test_a_pooled_output_of_a_padded_image(step: int) -> None:
    assert said(model(64, step), 64, 64) == []
    assert said(model(64, step), 40, 64) == [
        "Output 'score' was computed from a padded image (y from 40 to 64 pixels): the mirrored pixels at its end count, too."
    ]
    assert said(model(64, step), 40, 50, "mask") == [], "an image is cropped"
    assert said(model(64, 16), 70, 64) == [
        "Output 'score' was computed from a padded image (y from 70 to 80 pixels): the mirrored pixels at its end count, too."
    ]


@pytest.mark.parametrize("step", [0, 16])
def test_an_output_of_fewer_pixels_than_the_image(step: int) -> None:
    half = model(64, step, 0.5)
    assert said(half, 64, 40, "mask") == []
    assert said(half, 63, 301, "mask") == [
        "Output 'mask' has 31 pixels along y: 63 pixels at its scale of 1/2 are 31.5, and the part of a pixel at the end is left "
        "out.",
        "Output 'mask' has 150 pixels along x: 301 pixels at its scale of 1/2 are 150.5, and the part of a pixel at the end is "
        "left out.",
    ]
    assert said(model(64, step, 2.0), 63, 301, "mask") == []


def test_tiles_of_a_model_that_sees_its_whole_image() -> None:
    inexact, exact = MeasuredHalo({"y": 16, "x": 16}, 0.174, "onnx"), MeasuredHalo({"y": 16, "x": 16}, 0.009, "onnx")
    assert said(model(64, 0, halo=exact), 200, 64, "mask") == said(model(64, 0, halo=inexact), 64, 30, "mask") == []
    (sentence,) = said(model(64, 0, halo=inexact), 200, 64, "mask")
    assert "was cut into tiles" in sentence and "by up to 17% of their range" in sentence
    assert said(model(64, 0, halo=MeasuredHalo({}, 0.0, "", "nothing runs here")), 200, 64, "mask") == []


def test_outputs_are_asked_for_by_name() -> None:
    of = model(64, 16)
    assert fit_outputs(of, None) == ["mask", "score"] == fit_outputs(of, ["score", "mask"])
    assert fit_outputs(of, "mask") == ["mask"] == fit_outputs(of, ["mask"])
    wrong: Any
    for wrong in ([], ["mask", "mask"], ["Mask"], [1], 7, {}, [["mask"]], True, ""):
        with pytest.raises(BadOutputs, match=r"each once, out of: mask, score\. Leave it out to get all"):
            fit_outputs(of, wrong)
