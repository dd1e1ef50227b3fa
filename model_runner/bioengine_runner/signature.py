"""The inputs and outputs of a model, as bioimageio.core names them, and made-up images that the model accepts."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from fractions import Fraction

import numpy as np
from bioengine_contract.axes import BATCH, IMAGE_AXES
from bioengine_contract.manifest import Manifest
from bioengine_contract.manifest import Tensor as TensorDescription
from bioimageio.core import PredictionPipeline, Sample, Tensor
from bioimageio.core.axis import AxisId
from bioimageio.core.common import MemberId

from bioengine_runner.tiling.geometry import InputAxis, geometry
from bioengine_runner.tiling.groups import Group, Sizes, groups_of
from bioengine_runner.tiling.plan import Plan, Planner
from bioengine_runner.tiling.run import Run

Arrays = Sequence[np.ndarray | None]
"""One for each input; None for an optional one that was left out."""


class Signature:
    """The inputs and outputs of one model, and how images are cut into tiles for it."""

    def __init__(self, manifest: Manifest) -> None:
        self.model_id = manifest.id
        self.inputs = [_member(spec) for spec in manifest.inputs]
        self.outputs = [_member(spec) for spec in manifest.outputs]
        self._dtypes = [spec.dtype for spec in manifest.inputs]
        self._geometry = geometry(manifest)
        self._planner = Planner(manifest.id, self._geometry)

    @property
    def has_free_batch(self) -> bool:
        """Whether the first axis of every tensor is a batch axis of any size."""
        inputs, outputs = self._geometry.inputs.values(), self._geometry.outputs.values()
        return all(axes[0].type == BATCH and axes[0].is_free for axes in inputs) and all(
            axes[0].type == BATCH for axes in outputs
        )

    @property
    def has_free_size(self) -> bool:
        """Whether the model accepts images of more than one size."""
        return any(axis.is_free for axes in self._geometry.inputs.values() for axis in axes if axis.type in IMAGE_AXES)

    def run(
        self,
        pipeline: PredictionPipeline,
        arrays: Arrays,
        most_pixels: float,
        tile: Mapping[str, int] | None,
        outputs: Container[str] | None = None,
    ) -> Run:
        """Begin the run of a request. Raises StepError, and the errors of `Planner.plan`."""
        sample = Sample(
            # Axes are always named: bioimageio.core would map a bare array's axes by their sizes.
            members={id: Tensor(array, dims=axes) for (id, axes), array in zip(self.inputs, arrays) if array is not None},
            stat={},
            id=None,
        )
        plan = self.plan(arrays, most_pixels, tile, outputs)
        wanted = [id for id, _ in self.outputs if outputs is None or id in outputs]
        return Run(pipeline, sample, plan, dict(self.inputs), dict(self.outputs), wanted)

    def plan(
        self,
        arrays: Arrays,
        most_pixels: float,
        tile: Mapping[str, int] | None = None,
        outputs: Container[str] | None = None,
    ) -> Plan:
        """How they go through the model. `outputs`: the names of those that are put together; None for all."""
        return self._planner_for(outputs).plan(self._sizes(arrays), most_pixels, tile)

    def groups(self, arrays: Arrays, outputs: Container[str] | None = None) -> list[Group]:
        """Their image axes that are cut together."""
        geometry = self._geometry if outputs is None else self._geometry.only(outputs)
        return groups_of(geometry, self._sizes(arrays))

    def axes_of(self, group: Group) -> list[tuple[int | None, Fraction]]:
        """For each input, the number of its axis in a group, and its scale there; None if it has no such axis."""
        found = []
        for id, axes in self.inputs:
            axis = next((number for number, axis in enumerate(axes) if (str(id), str(axis)) in group.inputs), None)
            found.append((axis, Fraction(1) if axis is None else group.inputs[str(id), str(axes[axis])]))
        return found

    def images(self, arrays: Arrays) -> list[str]:
        """The outputs that can be put together from tiles of them."""
        return self._planner.images(self._sizes(arrays))

    def smallest_tile(self, arrays: Arrays, outputs: Container[str] | None = None) -> dict[str, int]:
        """The smallest tiles that they can be cut into for these outputs, by axis. Raises CannotTile if they cannot be cut."""
        return self._planner_for(outputs).smallest_tile(self._sizes(arrays))

    def pixels(self, arrays: Arrays) -> int:
        """The number of pixels (samples times image pixels) of the largest of the arrays."""
        inputs = zip(arrays, self._geometry.inputs.values())
        return max(_pixels(array, axes) for array, axes in inputs if array is not None)

    def made_up(self, pixels: int) -> list[np.ndarray]:
        """Images of zeros that the model accepts, with about so many pixels each, or the nearest possible number."""
        return [
            np.zeros([_size(axes, axis, self._geometry.inputs, pixels) for axis in axes], dtype)
            for axes, dtype in zip(self._geometry.inputs.values(), self._dtypes)
        ]

    def _planner_for(self, outputs: Container[str] | None) -> Planner:
        return self._planner if outputs is None else Planner(self.model_id, self._geometry.only(outputs))

    def _sizes(self, arrays: Arrays) -> Sizes:
        return {
            id: {str(axis): size for axis, size in zip(axes, array.shape)}
            for (id, axes), array in zip(self.inputs, arrays)
            if array is not None
        }


def _member(spec: TensorDescription) -> tuple[MemberId, list[AxisId]]:
    """A tensor and its axes as bioimageio.core calls them."""
    return MemberId(spec.id), [AxisId(axis.id) for axis in spec.axes]


def _pixels(array: np.ndarray, axes: Sequence[InputAxis]) -> int:
    """Samples times pixels of an image."""
    return math.prod(size for size, axis in zip(array.shape, axes) if axis.type in (*IMAGE_AXES, BATCH))


def _size(axes: Sequence[InputAxis], axis: InputAxis, inputs: Mapping[str, Sequence[InputAxis]], pixels: int) -> int:
    """The size of an axis of an image of about `pixels` pixels."""
    if axis.follows is not None:
        source = next(other for other in inputs[axis.follows.tensor] if other.id == axis.follows.axis)
        return axis.follows.of(_size(inputs[axis.follows.tensor], source, inputs, pixels))
    if axis.type not in IMAGE_AXES:
        return axis.min
    dimensions = sum(other.type in IMAGE_AXES for other in axes)
    return axis.valid(round(pixels ** (1 / dimensions)))
