"""Labels are the objects that were drawn, by StarDist's and Cellpose's own methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bioengine_contract.labels import LabelMethod, LabelsNotInstalled, NoLabels, labels_of_output, method_for
from bioengine_contract.manifest import Manifest
from bioengine_runner.labels.cellpose import CellposeOptions, cellpose_labels
from bioengine_runner.labels.run import use_packages, with_labels
from bioengine_runner.labels.stardist import StarDistOptions, TooManyCandidates, stardist_labels

from tests.packages.discs import RADIUS, agreement, discs, hills
from tests.unit.runner.stored import stored

SHAPE = (128, 192)


def predicted(folder: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / "weights.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": image})[0])


def manifest(networks: Path, id: str) -> Manifest:
    return stored(networks / "packages" / id, id).manifest


@pytest.mark.parametrize("id", ["starry-grid", "starry-repeated"])
def test_stardist_finds_the_discs_of_each_image_of_a_batch(networks: Path, id: str) -> None:
    image = discs(SHAPE).astype(bool).astype(np.float32)
    batch = np.stack([image, image[::-1], np.zeros_like(image)])[..., np.newaxis]
    model = manifest(networks, id)
    method = method_for(model)
    assert method == LabelMethod("stardist", {"prob_thresh": 0.5, "nms_thresh": 0.4, "grid": [2, 2]})
    (output,) = with_labels(model, method, [batch], [predicted(networks / "packages" / id, batch)])
    assert (output.shape, output.dtype) == ((3, *SHAPE, 1), np.float32)
    labels = labels_of_output(model, output)
    assert (labels.shape, labels.dtype) == ((3, *SHAPE), np.int32)
    for found, drawn in zip(labels, (discs(SHAPE), discs(SHAPE)[::-1])):
        assert agreement(found, drawn).min() > 0.7
        assert set(np.unique(found)) == set(range(drawn.max() + 1)), "as many objects as discs, numbered from 1"
    assert not labels[2].any()


def test_cellpose_finds_the_hills(networks: Path) -> None:
    image, drawn = hills(SHAPE)[np.newaxis, np.newaxis], discs(SHAPE)
    model = manifest(networks, "flowing-river")
    (output,) = with_labels(model, method_for(model), [image], [predicted(networks / "packages" / "flowing-river", image)])
    assert output.shape == (1, 1, *SHAPE)
    labels = labels_of_output(model, output)[0]
    assert agreement(labels, drawn).min() > 0.7
    assert labels.max() == drawn.max()


def test_of_two_candidates_that_overlap_the_more_probable_one_stays() -> None:
    prediction = np.zeros((40, 60, 33), np.float32)
    prediction[..., 1:] = RADIUS
    prediction[20, 20, 0], prediction[20, 24, 0], prediction[20, 40, 0] = 0.9, 0.8, 0.7
    few = stardist_labels(prediction, (40, 60), StarDistOptions(nms_thresh=0.3))
    assert few[20, 20] and few[20, 40] and few.max() == 2 and not few[20, 28]
    assert stardist_labels(prediction, (40, 60), StarDistOptions(nms_thresh=0.9)).max() == 3
    assert stardist_labels(prediction, (40, 60), StarDistOptions(prob_thresh=0.85)).max() == 1


def test_a_grid_that_the_description_does_not_say_is_seen_from_the_sizes(networks: Path) -> None:
    image = discs(SHAPE).astype(bool).astype(np.float32)[np.newaxis, ..., np.newaxis]
    model = manifest(networks, "starry-grid")
    outputs = [predicted(networks / "packages" / "starry-grid", image)]
    (output,) = with_labels(model, LabelMethod("stardist"), [image], outputs)
    assert agreement(labels_of_output(model, output)[0], discs(SHAPE)).min() > 0.7


@pytest.mark.parametrize("method", [LabelMethod("cellpose"), LabelMethod("stardist")])
def test_an_output_that_is_not_the_methods_is_refused(networks: Path, method: Any) -> None:
    id = "starry-grid" if method.name == "cellpose" else "flowing-river"
    model = manifest(networks, id)
    image = np.zeros((1, *SHAPE, 1) if id == "starry-grid" else (1, 1, *SHAPE), np.float32)
    with pytest.raises(NoLabels, match="its output has the shape"):
        with_labels(model, method, [image], [predicted(networks / "packages" / id, image)])


def test_without_the_environment_the_error_says_what_the_admin_can_do(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(LabelsNotInstalled, match="environments add labels"):
            use_packages(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_object(value: float) -> None:
    prediction = np.zeros((40, 60, 33), np.float32)
    prediction[..., 1:] = RADIUS
    prediction[20, 20, 0] = prediction[20, 40, 0] = 0.9
    prediction[20, 40, 5] = value
    labels = stardist_labels(prediction, (40, 60), StarDistOptions())
    assert labels.max() == 1 and labels[20, 20] and not labels[20, 45]
    flows = np.ones((40, 60, 3), np.float32)
    flows[..., 0] = value
    assert not cellpose_labels(flows, CellposeOptions()).any()


def test_distances_beyond_the_image_take_no_time() -> None:
    prediction = np.full((16, 16, 33), 1e30, np.float32)
    prediction[..., 0] = 0.9
    assert (stardist_labels(prediction, (16, 16), StarDistOptions()) == 1).all()


def test_candidates_that_would_all_stay_are_refused() -> None:
    prediction = np.full((128, 128, 33), 60, np.float32)
    prediction[..., 0] = 0.1
    with pytest.raises(TooManyCandidates, match=r"With prob_thresh 0, 16384 positions .* nms_thresh 1 most"):
        stardist_labels(prediction, (128, 128), StarDistOptions(prob_thresh=0, nms_thresh=1))
    assert stardist_labels(prediction, (128, 128), StarDistOptions(prob_thresh=0)).max() > 0
