"""Which sizes a model takes along each axis, and how its outputs follow its inputs, for tiles.

Sizes in pixels. An output axis follows an input axis: `size = input size * scale + offset`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.manifest import Axis, Manifest, SizeReference

# Scales are quotients of small numbers; as floats they are not, quite.
_MAX_DENOMINATOR = 4096


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


def geometry(manifest: Manifest) -> Geometry:
    """The geometry of a model."""
    axes = {spec.id: {axis.id for axis in spec.axes} for spec in manifest.inputs}
    inputs = {spec.id: tuple(_input(axis, axes) for axis in spec.axes) for spec in manifest.inputs}
    outputs = {spec.id: tuple(_output(axis, axes, inputs) for axis in spec.axes) for spec in manifest.outputs}
    return Geometry(inputs, outputs)


def _input(axis: Axis, known: Mapping[str, set[str]]) -> InputAxis:
    return InputAxis(axis.id, axis.type, axis.min, axis.step, _follows(axis.reference, known))


def _output(axis: Axis, known: Mapping[str, set[str]], inputs: Mapping[str, tuple[InputAxis, ...]]) -> OutputAxis:
    follows = _follows(axis.reference, known)
    if axis.reference is None and axis.step == 0 and axis.type in IMAGE_AXES:
        follows = _fixed(axis.id, axis.min, inputs)
    return OutputAxis(axis.id, axis.type, follows, axis.halo)


def _follows(reference: SizeReference | None, known: Mapping[str, set[str]]) -> Follows | None:
    if reference is None or reference.axis not in known.get(reference.tensor, ()):  # of another output
        return None
    scale = Fraction(reference.scale).limit_denominator(_MAX_DENOMINATOR)
    return Follows(reference.tensor, reference.axis, scale, reference.offset)


def _fixed(id: str, size: int, inputs: Mapping[str, tuple[InputAxis, ...]]) -> Follows | None:
    """What an output axis of one size follows: the axis of the same name of an input that has one size, too."""
    for tensor, axes in inputs.items():
        for axis in axes:
            if axis.id == id and not axis.is_free:
                if size % axis.min == 0 or axis.min % size == 0:
                    return Follows(tensor, id, Fraction(size, axis.min))
                return Follows(tensor, id, offset=size - axis.min)
    return None
