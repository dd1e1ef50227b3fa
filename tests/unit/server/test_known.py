"""Which requests can do without the router, and for how long a model is known."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from bioengine_server.service.known import KnownModel, KnownModels
from bioengine_server.triton.shared import LEAST_BYTES

TWO = {"name": "two", "inputs": {"image": ["float32", 4], "mask": ["uint8", 3]}, "outputs": ["sum"]}
IMAGE, MASK = np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 8, 8), np.uint8)
RESULT = {"weight_format": "onnx", "device": "cpu", "success": True, "outputs": [IMAGE]}
INFO = {"model_name": "router"}


def known(triton_model: dict[str, Any] | None = TWO) -> KnownModel:
    return KnownModel("two/1.0.0", "state", triton_model)


def test_a_plain_request_of_a_model_that_has_run() -> None:
    model, request = known(), {"model_id": "two", "inputs": [IMAGE, MASK]}
    assert model.plain_inputs(request) is None
    model.ran({**request, "weight_format": "onnx"}, RESULT, INFO)
    assert model.plain_inputs(request) is None, "other weights have run"
    model.ran(request, RESULT, INFO)
    assert model.plain_inputs(request) == [("image", IMAGE), ("mask", MASK)]


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        IMAGE,
        [IMAGE],
        [IMAGE, MASK, MASK],
        [IMAGE, MASK[0]],
        [IMAGE, MASK.astype(np.int8)],
        [IMAGE.astype(">f4"), MASK],
        [[IMAGE], MASK],
        [IMAGE, 5],
        [IMAGE[:0], MASK],
        [np.zeros((1, 1, 1, LEAST_BYTES // 4), np.float32), MASK],
    ],
    ids=["none", "array", "few", "many", "axes", "dtype", "byte order", "list", "number", "empty", "large"],
)
def test_arrays_that_are_for_the_router(inputs: Any) -> None:
    model = known()
    model.ran({}, RESULT, INFO)
    assert model.plain_inputs({"model_id": "two", "inputs": inputs}) is None


@pytest.mark.parametrize("more", ["axes", "tile", "return_rdf", "weight_format", "anything"])
def test_wishes_that_are_for_the_router(more: str) -> None:
    model = known()
    model.ran({}, RESULT, INFO)
    assert model.plain_inputs({"model_id": "two", "inputs": [IMAGE, MASK], more: None}) is None


def test_a_model_that_only_the_router_can_speak_to() -> None:
    model = known(None)
    model.ran({}, RESULT, INFO)
    assert model.plain_inputs({"model_id": "two", "inputs": [IMAGE, MASK]}) is None


def test_a_model_that_makes_much_of_little() -> None:
    model, request = known(), {"model_id": "two", "inputs": [IMAGE, MASK]}
    model.ran(request, {**RESULT, "outputs": [IMAGE, np.zeros(LEAST_BYTES, np.uint8)]}, INFO)
    assert model.plain_inputs(request) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_there_is_something_to_say_of_is_for_the_router(value: float) -> None:
    """NaN and infinity in an image, and a result that came with warnings."""
    model, spoilt = known(), IMAGE.copy()
    spoilt[0, 0, 3, 3] = value
    model.ran({}, RESULT, INFO)
    assert model.plain_inputs({"model_id": "two", "inputs": [spoilt, MASK]}) is None
    assert model.plain_inputs({"model_id": "two", "inputs": [IMAGE, MASK]}) is not None
    model.ran({}, {**RESULT, "warnings": ["Output 'sum' has NaN in 1 of 64 pixels."]}, INFO)
    assert model.plain_inputs({"model_id": "two", "inputs": [IMAGE, MASK]}) is None


def test_an_optional_input_that_is_left_out_is_for_the_router() -> None:
    model = known()
    model.ran({}, RESULT, INFO)
    for inputs in ([IMAGE], [IMAGE, None]):
        assert model.plain_inputs({"model_id": "two", "inputs": inputs}) is None


def test_a_store_that_is_not_there_tells_nothing() -> None:
    model = KnownModel("two/1.0.0", None, TWO)
    model.ran({}, RESULT, INFO)
    assert model.plain_inputs({"model_id": "two", "inputs": [IMAGE, MASK]}) is None


def test_models_are_known_for_a_moment_and_until_the_store_changes() -> None:
    models, model = KnownModels(), known()
    assert models.get("two", "state") is None
    models.add("two", model)
    assert models.get("two", "state") is model
    assert models.get(["two"], "state") is None
    assert models.get("two", "another state") is None
    model.until = time.monotonic()
    assert models.get("two", "state") is None
