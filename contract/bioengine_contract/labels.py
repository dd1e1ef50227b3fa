"""Labels: the objects in an image, instead of what the network predicts, where a description names the method that finds them.

    request {"labels": True} -> the method in the description -> (the model's process) -> int32, one number for each object

StarDist's export writes `config.stardist`, with `thresholds` and the network's `config`. Cellpose's networks are told by
`config.cellpose`, or by the tag `cellpose`, and three channels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bioengine_contract.axes import BATCH, CHANNEL, SPACE
from bioengine_contract.errors import RequestError
from bioengine_contract.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np

LABELS = "labels"
"""Key of a request, and parameter of Triton's inference request: the method, as JSON."""

ENVIRONMENT = "labels"
"""The environment with the programs that find objects."""

_STARDIST = {"prob": "prob_thresh", "nms": "nms_thresh"}
_CELLPOSE = ("cellprob_threshold", "flow_threshold", "min_size")
_LARGEST = 1e9  # of a number in a description
_CELLPOSE_CHANNELS = 3
_GRIDS = (1, 2, 4, 8)


class NoLabels(RequestError):
    code = "no_labels"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            f"Model '{model_id}' cannot give labels: {reason}. Labels are found for 2D models of StarDist and Cellpose. Leave "
            "`labels` out to get the outputs of the network."
        )


class LabelsNotInstalled(RequestError):
    code = "labels_not_installed"
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "This server cannot give labels, because StarDist and Cellpose are not installed. Ask its admin to run "
            f"`./bioengine environments add {ENVIRONMENT}` and to restart the server, or leave `labels` out to get the outputs "
            "of the network."
        )


@dataclass(frozen=True)
class LabelMethod:
    """How objects are found in the first output of a model. `options`: those of the method that the description has."""

    name: Literal["stardist", "cellpose"]
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LabelMethod:
        return cls(**json.loads(text))


def label_method(manifest: Manifest) -> LabelMethod | None:
    """The method that a description names; None if it names none."""
    config = manifest.rdf.get("config")
    config = config if isinstance(config, Mapping) else {}
    if isinstance(said := config.get("stardist"), Mapping):
        return LabelMethod("stardist", stardist_options(said.get("thresholds") or said.get("thresh"), said.get("config") or said))
    said, tags = config.get("cellpose"), manifest.rdf.get("tags")
    is_tagged = isinstance(tags, list) and any(isinstance(tag, str) and tag.lower() == "cellpose" for tag in tags)
    if isinstance(said, Mapping) or (is_tagged and _channels(manifest) == _CELLPOSE_CHANNELS):
        given = said if isinstance(said, Mapping) else {}
        return LabelMethod("cellpose", {name: given[name] for name in _CELLPOSE if _is_number(given.get(name))})
    return None


def stardist_options(thresholds: Any, config: Any) -> dict[str, Any]:
    """`prob_thresh`, `nms_thresh` and `grid` (y, x), as far as StarDist's own `thresholds` and `config` have usable ones."""
    given = thresholds if isinstance(thresholds, Mapping) else {}
    options: dict[str, Any] = {
        name: float(given[key]) for key, name in _STARDIST.items() if _is_number(given.get(key)) and 0 <= given[key] <= 1
    }
    grid = config.get("grid") if isinstance(config, Mapping) else None
    if isinstance(grid, list | tuple) and len(grid) == 2 and all(step in _GRIDS for step in grid):
        options["grid"] = [int(step) for step in grid]
    return options


def method_for(manifest: Manifest) -> LabelMethod:
    """The method for a request that asks for labels. Raises NoLabels."""
    method = label_method(manifest)
    if method is None:
        raise NoLabels(manifest.id, "its description names no method that finds objects (`config.stardist`, `config.cellpose`)")
    spec = manifest.outputs[0]
    kinds = [axis.type for axis in spec.axes]
    if kinds.count(SPACE) != 2 or kinds.count(CHANNEL) != 1 or any(kind not in (BATCH, CHANNEL, SPACE) for kind in kinds):
        raise NoLabels(manifest.id, f"its output '{spec.id}' has the axes {', '.join(axis.id for axis in spec.axes)}, not y, x")
    if spec.dtype not in ("float32", "float64"):
        raise NoLabels(manifest.id, f"its output '{spec.id}' is {spec.dtype}, not what such a network predicts")
    return method


def labels_of_output(manifest: Manifest, output: np.ndarray) -> np.ndarray:
    """The labels in what the model's process returned in place of the first output: int32, without the channel axis."""
    import numpy as np  # here: commands import this module for a name, and NumPy takes a fifth of their start

    channel = next(index for index, axis in enumerate(manifest.outputs[0].axes) if axis.type == CHANNEL)
    return np.ascontiguousarray(np.take(output, 0, axis=channel), dtype=np.int32)


def _channels(manifest: Manifest) -> int | None:
    return next((axis.min for axis in manifest.outputs[0].axes if axis.type == CHANNEL and axis.step == 0), None)


def _is_number(value: Any) -> bool:
    """Whether it is one, and not NaN or beyond what any method takes."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
