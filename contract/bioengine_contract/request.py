"""A request to run a stored model: the dict that clients send, and its keys.

    {"model_id": str, "inputs": [array, ...], "weight_format": str, "axes": str, "tile": int, "outputs": [str, ...],
    "labels": bool, "return_rdf": any}

The `RunRequest` that is made of it contains only known keys. A value that is not valid is cut to what an error message shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bioengine_contract.errors import BadRequest
from bioengine_contract.nearest import did_you_mean

_OPTIONS = ("weight_format", "axes", "tile", "outputs", "labels", "return_rdf")
REQUEST_KEYS = ("model_id", "inputs", *_OPTIONS)

MAX_INPUTS = 64
MAX_OUTPUTS = 64
MAX_AXES = 64
MAX_ID = 300  # characters
MAX_SHOWN = 80  # characters of a value that is not valid


class UnknownKey(BadRequest):
    code = "unknown_key"

    def __init__(self, key: object) -> None:
        meant = did_you_mean(key, REQUEST_KEYS) if isinstance(key, str) else ""
        super().__init__(f"the request has the unknown key {_shown(key)!r}.{meant} The known keys are {', '.join(REQUEST_KEYS)}.")


@dataclass(frozen=True)
class RunRequest:
    """A request whose parts have usable types and sizes. Whether they fit the model is checked later."""

    model_id: str
    inputs: Any
    """None if the client asks only for the model's description."""
    options: dict[str, Any] = field(default_factory=dict)
    """Those of `weight_format`, `axes`, `tile`, `outputs`, `labels` and `return_rdf` that the client sent."""

    @classmethod
    def from_client(cls, value: Any) -> RunRequest:
        """Check what a client sent, which may be anything, and make a request of it. Raises BadRequest."""
        if not isinstance(value, dict):
            raise BadRequest(f"the request is a {type(value).__name__}, expected a dict with model_id and inputs.")
        for key in value:
            if key not in REQUEST_KEYS:
                raise UnknownKey(key)
        options = {key: _option(key, value[key]) for key in _OPTIONS if key in value}
        return cls(_model_id(value.get("model_id")), _inputs(value.get("inputs")), options)

    @property
    def is_plain(self) -> bool:
        """Whether the request has no options."""
        return not self.options


def _model_id(value: Any) -> str:
    """The id. A value that cannot be an id becomes a text that is not a valid id either, so that the later error can show it."""
    if not isinstance(value, str):
        return f"({_shown(value)})"
    return value if len(value) <= MAX_ID else f"{value[:MAX_SHOWN]}…"


def _inputs(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.zeros(0, np.uint8)  # the later error says only that it is not a list
    if not isinstance(value, (list, tuple)):
        return {} if isinstance(value, dict) else _shown(value)
    if len(value) > MAX_INPUTS:
        raise BadRequest(
            f"the request has {len(value)} inputs, but no model has more than {MAX_INPUTS}. Send one array for each input."
        )
    return [_input(item) for item in value]


def _input(value: Any) -> Any:
    """An array, or a list of arrays; any other value is cut to what an error message shows."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, np.ndarray) for part in value):
        return list(value)
    return _shown(value)


def _option(key: str, value: Any) -> Any:
    if key == "return_rdf":
        return True  # its value does not matter
    if key == "labels":
        if value is not None and not isinstance(value, bool):
            raise BadRequest(
                f"`labels` is {_shown(value)!r}, expected True: the numbers of objects instead of the network's output."
            )
        return bool(value)
    if key == "axes" and isinstance(value, (list, tuple)):
        if len(value) > MAX_AXES:
            raise BadRequest(f"`axes` has {len(value)} entries, expected a string such as 'yx' for each input.")
        return [_shown(item) for item in value]
    if key == "outputs" and isinstance(value, (list, tuple)):
        return [_shown(item) for item in value[: MAX_OUTPUTS + 1]]
    if key == "tile" and isinstance(value, dict):
        if len(value) > MAX_AXES or not all(isinstance(axis, str) and not axis.startswith("_") for axis in value):
            raise BadRequest('`tile` is a dict that does not map axes to sizes. Expected a dict such as {"y": 256, "x": 256}.')
        return {_shown(axis): _shown(size) for axis, size in dict.items(value)}
    return _shown(value)


def _shown(value: Any) -> Any:
    """What an error message may show of a value: numbers and short texts as they are, others shortened or named by their type."""
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        value = value.item()
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else "a number of more than 64 bits"
    if isinstance(value, (str, bytes)):
        return value[:MAX_SHOWN]
    if isinstance(value, (list, tuple)):
        return [item if isinstance(item, (bool, int, float)) and abs(item) < 2**63 else "…" for item in value[:4]]
    if isinstance(value, dict):
        return {}
    if callable(value):
        raise BadRequest(f"a {type(value).__name__} cannot be sent. Send arrays, strings, numbers, lists and dicts only.")
    return f"a {type(value).__name__}"
