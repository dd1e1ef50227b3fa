"""Which sizes a model takes along each axis, and how its outputs follow its inputs, for tiles.

Sizes in pixels. An output axis follows an input axis: `size = input size * scale + offset`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.following import Follows, input_follows, output_follows
from bioengine_contract.manifest import Axis, Manifest, Tensor


@dataclass(frozen=True)
class InputAxis:
    """Sizes: `min` + n * `step`; step 0: `min` alone. `follows`: another input's axis, whose size decides.

    `measured_halo`: pixels at a cut that were found to depend on what is beyond it; None if this was not measured.
    """

    id: str
    type: str
    min: int
    step: int
    follows: Follows | None = None
    measured_halo: int | None = None

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

    def only(self, outputs: Container[str]) -> Geometry:
        """The geometry without the other outputs."""
        return replace(self, outputs={tensor: axes for tensor, axes in self.outputs.items() if tensor in outputs})


def geometry(manifest: Manifest) -> Geometry:
    """The geometry of a model."""
    inputs, measured = manifest.inputs, {} if manifest.halo is None else manifest.halo.pixels
    return Geometry(
        {spec.id: tuple(_input(axis, inputs, measured) for axis in spec.axes) for spec in inputs},
        {
            spec.id: tuple(OutputAxis(axis.id, axis.type, output_follows(axis, inputs), axis.halo) for axis in spec.axes)
            for spec in manifest.outputs
        },
    )


def _input(axis: Axis, inputs: Sequence[Tensor], measured: Mapping[str, int]) -> InputAxis:
    halo = measured.get(axis.id) if axis.step == 0 and axis.type in IMAGE_AXES else None
    return InputAxis(axis.id, axis.type, axis.min, axis.step, input_follows(axis, inputs), halo)
