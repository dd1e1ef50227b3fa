"""Image axes that are cut together: axes of inputs with the same name and size, and the output axes that follow them.

The halo of a cut is decided here: what the description declares, else what was measured at import, else `DEFAULT_HALO`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.following import Follows

from bioengine_runner.tiling.geometry import Geometry, InputAxis
from bioengine_runner.tiling.spans import Span, count_spans, smallest_block, spans, stride_of

# Pixels of the input at a cut, if the description declares no halo and none was measured; at most a quarter of the tile.
DEFAULT_HALO = 32

# Networks that halve images a few times give the same for an image that is moved by a multiple of this number of pixels.
_GRID = 32

Sizes = Mapping[str, Mapping[str, int]]
"""By tensor and axis, of the inputs that were given."""

Key = tuple[str, str]
"""A tensor and an axis."""


@dataclass(frozen=True)
class Cut:
    """One axis of the plan. Positions are pixels of the leading input axis; others follow it."""

    size: int
    """As given."""
    spans: tuple[Span, ...]


@dataclass
class Group:
    """Input axes that are cut together, and the output axes that follow: by (tensor, axis). `outputs`: each with its halo."""

    leader: InputAxis
    inputs: dict[Key, Fraction]
    outputs: dict[Key, tuple[Follows, int]]
    size: int = 0
    can_be_cut: bool = True

    @property
    def align(self) -> int:
        scales = [*self.inputs.values(), *(follows.scale for follows, _ in self.outputs.values())]
        return math.lcm(max(self.leader.step, 1), *(scale.denominator for scale in scales))

    @property
    def halo(self) -> int:
        """What the outputs spoil at a cut according to the description, and what the model takes from the ends of its input."""
        return max(
            (math.ceil((halo + max(0, -follows.offset) / 2) / follows.scale) for follows, halo in self.outputs.values()),
            default=0,
        )

    def halo_for(self, block: int) -> int:
        """The pixels of the input that are dropped at a cut of a tile of `block` pixels."""
        if self.halo:
            return self.halo
        if self.leader.measured_halo is not None:
            return self.leader.measured_halo
        halo = min(DEFAULT_HALO, block // 4)
        if halo < self.align and stride_of(block, halo, self.align) > 0:
            return halo  # tiles of large steps overlap by a whole step; only small ones cannot
        return halo // self.align * self.align

    def grid_for(self, block: int) -> int:
        """Tiles of `block` pixels begin at multiples of this number, so that the network sees its pixels in the same phase."""
        if self.leader.is_free:
            return self.align
        grid = math.gcd(block, _GRID)
        while grid > 1 and stride_of(block, self.halo_for(block), self.align, grid) <= 0:
            grid //= 2
        return math.lcm(self.align, grid)

    @property
    def least_block(self) -> int:
        """The smallest block that can be one of several."""
        return self.leader.valid(smallest_block(self.halo, self.align))

    def cut(self, block: int) -> Cut:
        """The spans of the whole size. The last one may end beyond it."""
        return Cut(self.size, tuple(spans(*self._spans(block))))

    def count(self, block: int) -> int:
        """How many spans `cut` makes."""
        return count_spans(*self._spans(block))

    def makes_way(self, block: int) -> bool:
        """Whether the halo leaves anything of a tile of `block` pixels."""
        return stride_of(block, self.halo_for(block), self.align) > 0

    def _spans(self, block: int) -> tuple[int, int, int, int, int]:
        grid = self.grid_for(block)
        end = max(block, block + math.ceil((self.size - block) / grid) * grid)
        return end, block, self.halo_for(block), self.align, grid


def groups_of(geometry: Geometry, sizes: Sizes) -> list[Group]:
    """The groups of a model's axes, for inputs of `sizes`."""
    groups: list[Group] = []
    of_axis: dict[Key, Group] = {}
    inputs = {tensor: axes for tensor, axes in geometry.inputs.items() if tensor in sizes}
    for tensor, axes in inputs.items():
        for axis in axes:
            if axis.type not in IMAGE_AXES or axis.follows is not None:
                continue
            size = sizes[tensor][axis.id]
            # Axes of the same name and size are cut together.
            for group in groups:
                if (group.leader, group.size) == (axis, size):
                    break
            else:
                group = Group(axis, {}, {}, size)
                groups.append(group)
            group.inputs[tensor, axis.id] = Fraction(1)
            of_axis[tensor, axis.id] = group
    for tensor, axes in inputs.items():
        for axis in axes:
            if (follows := axis.follows) is not None and (follows.tensor, follows.axis) in of_axis:
                group = of_axis[follows.tensor, follows.axis]
                group.inputs[tensor, axis.id] = follows.scale
                group.can_be_cut &= follows.offset == 0
    for tensor, outputs in geometry.outputs.items():
        followed = []
        for output in outputs:
            if (follows := output.follows) is not None and (follows.tensor, follows.axis) in of_axis:
                group = of_axis[follows.tensor, follows.axis]
                group.outputs[tensor, output.id] = follows, output.halo
                followed.append(group)
        for group in groups:
            # An output that has no such axis cannot be put together from tiles.
            group.can_be_cut &= group in followed
    names = [group.leader.id for group in groups]
    for group in groups:
        group.can_be_cut &= names.count(group.leader.id) == 1
    return groups
