"""Which sizes a model takes along each axis, and how its outputs follow its inputs; formats 0.4 and 0.5 alike.

Sizes in pixels. An output axis follows an input axis: `size = input size * scale + offset`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bioengine_contract.axes import IMAGE_AXES
from bioimageio.core.axis import AxisInfo
from bioimageio.core.digest_spec import get_member_id
from bioimageio.spec.model import v0_4, v0_5

_TYPES_0_4 = {"b": "batch", "c": "channel", "t": "time", "i": "index"}


@dataclass(frozen=True)
class Follows:
    """Of which input's axis an axis is the image: `size * scale + offset`."""

    tensor: str
    axis: str
    scale: Fraction = Fraction(1)
    offset: int = 0

    def of(self, size: int) -> int:
        return math.floor(size * self.scale) + self.offset


@dataclass(frozen=True)
class InputAxis:
    """Sizes: `min` + n * `step`; step 0: `min` alone. `follows`: another input's axis, whose size decides."""

    id: str
    type: str
    min: int
    step: int
    follows: Follows | None = None

    @property
    def is_free(self) -> bool:
        return self.step > 0

    def valid(self, size: int) -> int:
        """The smallest valid size that is not smaller."""
        if size <= self.min or not self.is_free:
            return self.min
        return self.min + math.ceil((size - self.min) / self.step) * self.step


@dataclass(frozen=True)
class OutputAxis:
    """`follows` is None where no input axis decides over the size. `halo`: output pixels at either end that a tile spoils."""

    id: str
    type: str
    follows: Follows | None
    halo: int


@dataclass(frozen=True)
class Geometry:
    """The axes of a model's inputs and outputs, by tensor."""

    inputs: dict[str, tuple[InputAxis, ...]]
    outputs: dict[str, tuple[OutputAxis, ...]]


def geometry(description: v0_4.ModelDescr | v0_5.ModelDescr) -> Geometry:
    """The geometry of a described model."""
    if isinstance(description, v0_4.ModelDescr):
        inputs = {str(get_member_id(spec)): _inputs_0_4(spec) for spec in description.inputs}
        outputs = {str(get_member_id(spec)): _outputs_0_4(spec, inputs) for spec in description.outputs}
    else:
        scales = {
            (str(spec.id), str(axis.id)): _fraction(getattr(axis, "scale", 1))
            for spec in description.inputs
            for axis in spec.axes
        }
        inputs = {str(spec.id): tuple(_input_0_5(axis, scales) for axis in spec.axes) for spec in description.inputs}
        outputs = {str(spec.id): tuple(_output_0_5(axis, scales, inputs) for axis in spec.axes) for spec in description.outputs}
    return Geometry(inputs, outputs)


def _fraction(value: Any) -> Fraction:
    return Fraction(value or 1).limit_denominator(64)


def _input_0_5(axis: Any, scales: dict[tuple[str, str], Fraction]) -> InputAxis:
    size = axis.size
    if size is None:
        return InputAxis(str(axis.id), axis.type, 1, 1)
    if isinstance(size, v0_5.ParameterizedSize):
        return InputAxis(str(axis.id), axis.type, int(size.min), int(size.step))
    if isinstance(size, v0_5.SizeReference):
        return InputAxis(str(axis.id), axis.type, 1, 1, _reference_0_5(axis, scales))
    return InputAxis(str(axis.id), axis.type, int(size), 0)


def _output_0_5(axis: Any, scales: dict[tuple[str, str], Fraction], inputs: dict[str, tuple[InputAxis, ...]]) -> OutputAxis:
    follows = None
    if isinstance(axis.size, v0_5.SizeReference):
        follows = _reference_0_5(axis, scales)
    elif axis.type in IMAGE_AXES and isinstance(axis.size, int):
        follows = _fixed(str(axis.id), axis.size, inputs)
    return OutputAxis(str(axis.id), axis.type, follows, int(getattr(axis, "halo", 0) or 0))


def _reference_0_5(axis: Any, scales: dict[tuple[str, str], Fraction]) -> Follows | None:
    tensor, source = str(axis.size.tensor_id), str(axis.size.axis_id)
    if (tensor, source) not in scales:  # of another output
        return None
    return Follows(tensor, source, scales[tensor, source] / _fraction(getattr(axis, "scale", 1)), int(axis.size.offset))


def _inputs_0_4(spec: v0_4.InputTensorDescr) -> tuple[InputAxis, ...]:
    axes = []
    for index, letter in enumerate(spec.axes):
        if isinstance(spec.shape, v0_4.ParameterizedInputShape):
            smallest, step = int(spec.shape.min[index]), int(spec.shape.step[index])
            if letter == "b":  # of a free shape, any number of samples
                smallest, step = 1, 1
        else:
            smallest, step = int(spec.shape[index]), 0
        axes.append(InputAxis(str(AxisInfo.create(letter).id), _TYPES_0_4.get(letter, "space"), smallest, step))
    return tuple(axes)


def _outputs_0_4(spec: v0_4.OutputTensorDescr, inputs: dict[str, tuple[InputAxis, ...]]) -> tuple[OutputAxis, ...]:
    halo: Sequence[int] = spec.halo or [0] * len(spec.axes)
    axes = []
    for index, letter in enumerate(spec.axes):
        id, type = str(AxisInfo.create(letter).id), _TYPES_0_4.get(letter, "space")
        follows = None
        if type in IMAGE_AXES and isinstance(spec.shape, v0_4.ImplicitOutputShape):
            tensor, scale = str(spec.shape.reference_tensor), spec.shape.scale[index]
            if scale and any(axis.id == id for axis in inputs.get(tensor, ())):
                follows = Follows(tensor, id, _fraction(scale), round(2 * spec.shape.offset[index]))
        elif type in IMAGE_AXES:
            follows = _fixed(id, int(spec.shape[index]), inputs)  # type: ignore[index]
        axes.append(OutputAxis(id, type, follows, int(halo[index])))
    return tuple(axes)


def _fixed(id: str, size: int, inputs: dict[str, tuple[InputAxis, ...]]) -> Follows | None:
    """What an output axis of one size follows: the axis of the same name of an input that has one size, too."""
    for tensor, axes in inputs.items():
        for axis in axes:
            if axis.id == id and not axis.is_free:
                if size % axis.min == 0 or axis.min % size == 0:
                    return Follows(tensor, id, Fraction(size, axis.min))
                return Follows(tensor, id, offset=size - axis.min)
    return None
