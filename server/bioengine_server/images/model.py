"""A model's inputs and outputs, from its description in format 0.4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class TensorAxes:
    """An input or output of a model: its name, and its axes in the letters of format 0.4, such as "bcyx".

    `channels`: the number of channels, if it is fixed. `dtype`: such as "uint8", if it is known. `optional`: whether the model
    runs without this input. `replaces`: the output that it is computed from and in whose place it comes. `scales`: of an output,
    how many pixels along z, y and x it has for one of the first input, as far as that is known.
    """

    name: str
    axes: str
    channels: int | None = None
    dtype: str = ""
    optional: bool = False
    replaces: str = ""
    scales: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def asked_as(self) -> str:
        """The name of this output in a request."""
        return self.replaces or self.name

    @property
    def is_image(self) -> bool:
        """Whether it has pixels. Others are classes, scores or tables."""
        return {"y", "x"} <= set(self.axes)


@dataclass(frozen=True)
class Model:
    """A model as described."""

    id: str
    inputs: list[TensorAxes]
    outputs: list[TensorAxes]

    def inputs_of(self, count: int) -> list[int]:
        """The inputs for so many images, in order: all required ones, and optional ones for the images that are left."""
        left = count - sum(not spec.optional for spec in self.inputs)
        chosen = []
        for number, spec in enumerate(self.inputs):
            if not spec.optional or left > 0:
                chosen.append(number)
                left -= spec.optional
        return chosen

    @property
    def with_labels(self) -> Model:
        """The same model with labels in place of its first output."""
        first = self.outputs[0]
        labels = TensorAxes("labels", first.axes.replace("c", ""), dtype="int32", replaces=first.name)
        return replace(self, outputs=[labels, *self.outputs[1:]])

    @classmethod
    def of(cls, id: str, rdf: Mapping[str, Any]) -> Model:
        outputs = [replace(_tensor(item), scales=_scales(item, rdf["inputs"][0])) for item in rdf["outputs"]]
        return cls(id, [_tensor(item) for item in rdf["inputs"]], outputs)


def _tensor(item: Mapping[str, Any]) -> TensorAxes:
    axes = str(item["axes"])
    channels = _fixed_size(item.get("shape"), axes.index("c")) if "c" in axes else None
    return TensorAxes(str(item["name"]), axes, channels, str(item.get("data_type") or ""), item.get("optional") is True)


def _scales(output: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float]:
    """The scale of each spatial axis of an output that follows the first input."""
    axes, shape = str(output["axes"]), output.get("shape")
    scales = {}
    for letter in set(axes) & set(str(first["axes"])) & set("zyx"):
        index = axes.index(letter)
        if isinstance(shape, Mapping) and shape.get("reference_tensor") == first["name"] and shape["scale"][index]:
            scales[letter] = float(shape["scale"][index])
        size, given = _fixed_size(shape, index), _fixed_size(first.get("shape"), str(first["axes"]).index(letter))
        if size and given:
            is_scaled = size % given == 0 or given % size == 0  # as tiles are put together (`bioengine_contract.following`)
            scales[letter] = size / given if is_scaled else 1.0
    return scales


def _fixed_size(shape: Any, index: int) -> int | None:
    """The size of an axis if it is fixed, for all ways in which format 0.4 describes shapes."""
    try:
        if isinstance(shape, list):
            return int(shape[index])
        if "reference_tensor" in shape:
            return int(2 * shape["offset"][index]) if shape["scale"][index] == 0 else None
        return int(shape["min"][index]) if shape["step"][index] == 0 else None
    except (KeyError, IndexError, TypeError, ValueError):
        return None
