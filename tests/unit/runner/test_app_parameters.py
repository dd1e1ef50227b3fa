"""The parameters that clients send to apps."""

from __future__ import annotations

import json
from typing import Any

import pytest
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
