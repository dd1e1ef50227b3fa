"""The parameters of a request to an app: a dict, which arrives as JSON in the input `param`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bioengine_runner.apps.errors import AppParameterRefused

Check = Callable[[Any], str | None]
"""What was expected of a value, if it is not possible; None if it is."""

MAX_LENGTH = 10_000  # characters


def read_parameters(text: str | bytes, known: Mapping[str, Check]) -> dict[str, Any]:
    """The parameters in `text`. None stands for a value that was not given. Raises AppParameterRefused."""
    if len(text) > MAX_LENGTH:
        raise AppParameterRefused(f"it has {len(text)} characters. Expected a short dict.")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise AppParameterRefused('it is not JSON. Expected a dict, such as {"diameter": 30}.') from None
    if not isinstance(values, dict):
        raise AppParameterRefused(f'it is a {type(values).__name__}. Expected a dict, such as {{"diameter": 30}}.')
    for name, value in values.items():
        if name not in known:
            raise AppParameterRefused.unknown(name, known)
        if value is not None and (expected := known[name](value)) is not None:
            raise AppParameterRefused(f"{name!r} is {_in_short(value)}. Expected {expected}.")
    return {name: value for name, value in values.items() if value is not None}


def number(low: float, high: float) -> Check:
    """A number between two others, both included."""

    def check(value: Any) -> str | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # NaN is in no range. Numbers are compared, not converted: whole ones may be too large for it.
        return None if is_number and low <= value <= high else f"a number from {low:g} to {high:g}"

    return check


def whole(low: int, high: int) -> Check:
    """A whole number between two others, both included."""

    def check(value: Any) -> str | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return None if is_whole and low <= value <= high else f"a whole number from {low} to {high}"

    return check


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def name(value: Any) -> str | None:
    return None if isinstance(value, str) and len(value) <= 100 else "a short text"


def _in_short(value: Any) -> str:
    try:
        return repr(str(value)[:60])
    except (RecursionError, ValueError):  # very deep, or with very many digits
        return f"a {type(value).__name__}"
