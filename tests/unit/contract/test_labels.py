"""Which models can give labels, by what their descriptions say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bioengine_contract.errors import BadRequest
from bioengine_contract.labels import LabelMethod, NoLabels, label_method, labels_of_output, method_for
from bioengine_contract.manifest import Axis, Tensor
from bioengine_contract.request import RunRequest

from tests.unit.contract.packages import manifest


def output(channels: int = 33, dtype: str = "float32", axes: str = "byxc") -> Tensor:
    known = {
        "b": Axis("batch", "batch", 1, 1),
        "c": Axis("channel", "channel", channels, 0),
        **{letter: Axis(letter, "space", 1, 1) for letter in "zyx"},
    }
    return Tensor("output", dtype, tuple(known[letter] for letter in axes))


EXPORTED = {"thresholds": {"prob": 0.48, "nms": 0.3}, "config": {"grid": [2, 2], "n_rays": 32}}
EARLY = {"thresh": {"prob": 0.6}, "grid": [1, 1]}
WRONG = {"thresholds": {"prob": "x", "nms": 7}, "config": {"grid": [3, "a"]}}


def stardist(**options: Any) -> LabelMethod:
    return LabelMethod("stardist", options)


@pytest.mark.parametrize(
    ("rdf", "channels", "expected"),
    [
        ({"config": {"stardist": EXPORTED}}, 33, stardist(prob_thresh=0.48, nms_thresh=0.3, grid=[2, 2])),
        ({"config": {"stardist": EARLY}}, 33, stardist(prob_thresh=0.6, grid=[1, 1])),
        ({"config": {"stardist": {}}}, 33, stardist()),
        ({"config": {"stardist": WRONG}}, 33, stardist()),
        ({"config": {"stardist": {"thresholds": [1], "config": 5}}}, 33, stardist()),
        ({"config": {"cellpose": {"flow_threshold": 0, "other": 1}}}, 3, LabelMethod("cellpose", {"flow_threshold": 0})),
        ({"config": {"cellpose": {"flow_threshold": float("nan"), "min_size": -(10**400)}}}, 3, LabelMethod("cellpose")),
        ({"tags": ["nuclei", "Cellpose"]}, 3, LabelMethod("cellpose")),
        ({"tags": ["cellpose"]}, 2, None),
        ({"config": {"stardist": "yes"}, "tags": "cellpose"}, 3, None),
        ({"config": None}, 3, None),
        ({}, 3, None),
    ],
)
def test_the_method_is_the_one_that_the_description_names(rdf: Any, channels: int, expected: LabelMethod | None) -> None:
    found = label_method(manifest(outputs=(output(channels),), rdf=rdf))
    assert found == expected
    if found is not None:
        assert LabelMethod.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("spec", "rdf", "problem"),
    [
        (output(), {}, "names no method"),
        (output(axes="bzyxc"), {"config": {"stardist": {}}}, "batch, z, y, x, channel"),
        (output(axes="bc"), {"config": {"stardist": {}}}, "batch, channel"),
        (output(dtype="uint8"), {"config": {"stardist": {}}}, "is uint8"),
    ],
)
def test_models_without_labels(spec: Tensor, rdf: Any, problem: str) -> None:
    with pytest.raises(NoLabels, match=problem):
        method_for(manifest(outputs=(spec,), rdf=rdf))


@pytest.mark.parametrize(("axes", "shape"), [("byxc", (2, 4, 5, 1)), ("bcyx", (2, 1, 4, 5))])
def test_labels_are_whole_numbers_without_a_channel(axes: str, shape: tuple[int, ...]) -> None:
    numbers = np.arange(40, dtype=np.float32).reshape(shape)
    labels = labels_of_output(manifest(outputs=(output(axes=axes),)), numbers)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, np.arange(40).reshape(2, 4, 5))


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, False)])
def test_a_request_asks_for_labels_by_true(value: Any, expected: bool) -> None:
    assert RunRequest.from_client({"model_id": "a", "labels": value}).options == {"labels": expected}


@pytest.mark.parametrize("value", ["yes", 1, [True], {}])
def test_and_by_nothing_else(value: Any) -> None:
    with pytest.raises(BadRequest, match="`labels` is"):
        RunRequest.from_client({"model_id": "a", "labels": value})
