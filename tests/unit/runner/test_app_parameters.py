"""The parameters that clients send to apps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bioengine_runner.apps.cellpose_size import checked_steps
from bioengine_runner.apps.errors import AppParameterRefused
from bioengine_runner.apps.parameters import flag, name, number, read_parameters, whole
from hypothesis import given
from hypothesis import strategies as st

KNOWN = {"diameter": number(0, 100), "min_size": whole(-1, 50), "invert": flag, "model_type": name}


def test_none_is_as_good_as_nothing() -> None:
    text = json.dumps({"diameter": None, "min_size": 3, "invert": True, "model_type": "nuclei"})
    assert read_parameters(text, KNOWN) == {"min_size": 3, "invert": True, "model_type": "nuclei"}


@pytest.mark.parametrize(
    ("given_values", "problem"),
    [
        ({"diametre": 30}, "no parameter 'diametre'. Did you mean 'diameter'"),
        ({"diameter": "30"}, "'diameter' is '30'. Expected a number from 0 to 100"),
        ({"diameter": float("nan")}, "Expected a number"),
        ({"diameter": True}, "Expected a number"),
        ({"diameter": 10**400}, "Expected a number"),
        ({"min_size": 1.5}, "Expected a whole number from -1 to 50"),
        ({"invert": 1}, "Expected true or false"),
        ({"model_type": "x" * 101}, "Expected a short text"),
        ([1], "it is a list. Expected a dict"),
    ],
)
def test_what_is_not_possible_is_refused(given_values: Any, problem: str) -> None:
    with pytest.raises(AppParameterRefused, match=problem):
        read_parameters(json.dumps(given_values), KNOWN)


@given(st.one_of(st.text(), st.binary(), st.integers(1, 20_000).map(lambda depth: "[" * depth)))
def test_anything_else_is_refused_too(text: str | bytes) -> None:
    try:
        read_parameters(text, KNOWN)
    except AppParameterRefused:
        pass


@given(st.integers(1, 2000))
def test_lists_of_any_depth_are_refused_as_a_value(depth: int) -> None:
    with pytest.raises(AppParameterRefused, match=r"'diameter' is|not JSON"):
        read_parameters('{"diameter": ' + "[" * depth + "]" * depth + "}", KNOWN)


@pytest.mark.parametrize(
    ("shape", "diameter", "parameters"),
    [
        ((3, 1000, 1000), 1.0, {}),
        ((1000, 1000, 3), 1.0, {}),
        ((3, 256, 256), 1e-320, {}),
        ((3, 256, 256), 1e4, {}),
        ((3, 4, 50_000), 1.0, {"channel_axis": 1}),
    ],
)
def test_a_diameter_makes_no_image_of_any_size(shape: tuple[int, ...], diameter: float, parameters: dict[str, Any]) -> None:
    with pytest.raises(AppParameterRefused, match="Expected the diameter of the objects in the image"):
        checked_steps(shape, diameter, 30.0, parameters)


@pytest.mark.parametrize(
    ("diameter", "parameters", "expected"),
    [
        (30, {}, None),
        (10, {"niter": 7}, 7),
        (1500, {}, None),
        (1600, {}, 10_000),
        (1600, {"niter": 0}, 10_000),
        (1600, {"niter": 5}, 5),
    ],
)
def test_the_steps_of_large_objects_are_bounded(diameter: float, parameters: dict[str, Any], expected: int | None) -> None:
    assert checked_steps((1, 3000, 3000), diameter, 30.0, parameters) == expected
