"""What a model takes and gives, from its description in the shape of format 0.4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorAxes:
    """An input or output of a model: its name, and its axes in the letters of format 0.4, such as "bcyx".

    `channels`: how many it has, where that is fixed. `dtype`: such as "uint8", where it is known. `optional`: whether the model
    runs without it.
    """

    name: str
    axes: str
    channels: int | None = None
    dtype: str = ""
    optional: bool = False

    @property
    def is_image(self) -> bool:
        """Whether it has pixels: others are classes, scores, tables."""
        return {"y", "x"} <= set(self.axes)


@dataclass(frozen=True)
class Model:
    """A model as its description says."""

    id: str
    inputs: list[TensorAxes]
    outputs: list[TensorAxes]

    def inputs_of(self, count: int) -> list[int]:
        """Which inputs so many images are, in order: all that are needed, and of the optional ones as many as are left."""
        left = count - sum(not spec.optional for spec in self.inputs)
        chosen = []
        for number, spec in enumerate(self.inputs):
            if not spec.optional or left > 0:
                chosen.append(number)
                left -= spec.optional
        return chosen

    @classmethod
    def of(cls, id: str, rdf: Mapping[str, Any]) -> Model:
        return cls(id, [_tensor(item) for item in rdf["inputs"]], [_tensor(item) for item in rdf["outputs"]])


def _tensor(item: Mapping[str, Any]) -> TensorAxes:
    axes = str(item["axes"])
    channels = _fixed_size(item.get("shape"), axes.index("c")) if "c" in axes else None
    return TensorAxes(str(item["name"]), axes, channels, str(item.get("data_type") or ""), item.get("optional") is True)


def _fixed_size(shape: Any, index: int) -> int | None:
    """The size of an axis that has one, in each of the ways in which format 0.4 says shapes."""
    try:
        if isinstance(shape, list):
            return int(shape[index])
        if "reference_tensor" in shape:
            return int(2 * shape["offset"][index]) if shape["scale"][index] == 0 else None
        return int(shape["min"][index]) if shape["step"][index] == 0 else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None
