"""A client's request to run a stored model, as the one dict in `inputs` has it, and as the router gets it.

What the router gets is built anew from the keys that are known: it has keys of its own for the server (`operation`, `shared`, and
references to files within), and nothing that a client sends becomes one of them. What is no array is passed on only as far as an
error message shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bioengine_server.errors import RefusedArgument
from bioengine_server.nearest import did_you_mean

_OPTIONS = ("weight_format", "axes", "tile", "return_rdf")
REQUEST_KEYS = ("model_id", "inputs", *_OPTIONS)

MAX_INPUTS = 64
MAX_AXES = 64
MAX_ID = 300  # characters
MAX_SHOWN = 80  # characters of what is wrong in any case


@dataclass(frozen=True)
class RunRequest:
    """A request whose parts have types and sizes that the router reads; whether they fit the model is for the router to say."""

    model_id: str
    inputs: Any
    """None: only the description is asked for."""
    options: dict[str, Any] = field(default_factory=dict)
    """`weight_format`, `axes`, `tile` and `return_rdf`, where they were given."""
    files_url: str = ""
    """The server's own URL, under which clients find the files that a description names; empty where nothing answers there."""

    @classmethod
    def from_client(cls, value: Any, files_url: str = "") -> RunRequest:
        """The request in `value`, which may be anything. Raises RefusedArgument."""
        if not isinstance(value, dict):
            raise RefusedArgument("inputs", f"the request is a {type(value).__name__}, expected a dict with model_id and inputs.")
        for key in value:
            if key not in REQUEST_KEYS:
                meant = did_you_mean(key, REQUEST_KEYS) if isinstance(key, str) else ""
                raise RefusedArgument(
                    "inputs", f"the request has the unknown key {_shown(key)!r}.{meant} Known are {', '.join(REQUEST_KEYS)}."
                )
        options = {key: _option(key, value[key]) for key in _OPTIONS if key in value}
        return cls(_model_id(value.get("model_id")), _inputs(value.get("inputs")), options, files_url)

    def to_router(self) -> dict[str, Any]:
        """What the router reads (`bioengine_runner.router`)."""
        has_rdf = self.inputs is None or "return_rdf" in self.options
        with_url = {"files_url": self.files_url} if has_rdf and self.files_url else {}
        return {"model_id": self.model_id, "inputs": self.inputs, **self.options, **with_url}

    @property
    def is_plain(self) -> bool:
        """Whether it asks for nothing beside the model's outputs."""
        return not self.options


def _model_id(value: Any) -> str:
    """The id; what cannot be one becomes a text that is none either, for the error to show."""
    if not isinstance(value, str):
        return f"({_shown(value)})"
    return value if len(value) <= MAX_ID else f"{value[:MAX_SHOWN]}…"


def _inputs(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.zeros(0, np.uint8)  # not a list, which is all that is said of it
    if not isinstance(value, (list, tuple)):
        return {} if isinstance(value, dict) else _shown(value)
    if len(value) > MAX_INPUTS:
        raise RefusedArgument(
            "inputs",
            f"the request has {len(value)} inputs, and no model has more than {MAX_INPUTS}. Send one array for each input.",
        )
    return [_input(item) for item in value]


def _input(value: Any) -> Any:
    """An array, or a list of arrays; of anything else what an error shows."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, np.ndarray) for part in value):
        return list(value)
    return _shown(value)


def _option(key: str, value: Any) -> Any:
    if key == "return_rdf":
        return True  # asked for by presence
    if key == "axes" and isinstance(value, (list, tuple)):
        if len(value) > MAX_AXES:
            raise RefusedArgument("inputs", f"`axes` has {len(value)} entries, expected a string such as 'yx' for each input.")
        return [_shown(item) for item in value]
    if key == "tile" and isinstance(value, dict):
        if len(value) > MAX_AXES or not all(isinstance(axis, str) and not axis.startswith("_") for axis in value):
            raise RefusedArgument("inputs", '`tile` is a dict that has no sizes by axis, such as {"y": 256, "x": 256}.')
        return {_shown(axis): _shown(size) for axis, size in dict.items(value)}
    return _shown(value)


def _shown(value: Any) -> Any:
    """A number or a short text as it is, of anything else a short text or a list of such."""
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
        raise RefusedArgument(
            "inputs", f"a {type(value).__name__} cannot be sent. Send arrays, strings, numbers, lists and dicts only."
        )
    return f"a {type(value).__name__}"
