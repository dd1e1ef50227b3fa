"""Which axis of an input decides over the size of an axis: `size = input size * scale + offset`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.manifest import Axis, SizeReference, Tensor


@dataclass(frozen=True)
class Follows:
    """Of which input's axis an axis is the image: `size * scale + offset`."""

    tensor: str
    axis: str
    scale: Fraction = Fraction(1)
    offset: int = 0

    def of(self, size: int) -> int:
        return math.floor(size * self.scale) + self.offset


def input_follows(axis: Axis, inputs: Sequence[Tensor]) -> Follows | None:
    """What an axis of an input follows: another input's axis, or nothing."""
    return None if axis.reference is None else _referred(axis.reference, inputs)


def output_follows(axis: Axis, inputs: Sequence[Tensor]) -> Follows | None:
    """What an axis of an output follows: the axis that it refers to; an image axis of one size follows that of the same name."""
    if axis.reference is not None:
        return _referred(axis.reference, inputs)
    return _fixed(axis.id, axis.min, inputs) if axis.step == 0 and axis.type in IMAGE_AXES else None


def _referred(reference: SizeReference, inputs: Sequence[Tensor]) -> Follows | None:
    known = {(spec.id, axis.id) for spec in inputs for axis in spec.axes}
    if (reference.tensor, reference.axis) not in known:  # of another output
        return None
    return Follows(reference.tensor, reference.axis, reference.exact_scale, reference.offset)


def _fixed(id: str, size: int, inputs: Sequence[Tensor]) -> Follows | None:
    for spec in inputs:
        for axis in spec.axes:
            if axis.id == id and axis.step == 0:
                if size % axis.min == 0 or axis.min % size == 0:
                    return Follows(spec.id, id, Fraction(size, axis.min))
                return Follows(spec.id, id, offset=size - axis.min)
    return None
