"""An axis cut into spans: where each tile begins and ends, and which part of it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """From `start` to `stop` goes into the model; from `keep_start` to `keep_stop` of that is kept. Pixels of the input."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def spans(size: int, block: int, halo: int, align: int, grid: int = 1) -> list[Span]:
    """Cut `size` pixels into spans of `block` pixels, of which all but the halo is kept.

    At the ends of the axis nothing is cut off: there, a tile ends where the whole image does, and the model sees the same border.

    Args:
        size: of the axis; `size - block` is a multiple of `align` and of `grid`.
        block: of each span.
        halo: pixels at a cut that are not kept, at least.
        align: spans begin, and are kept from, multiples of it.
        grid: spans begin at multiples of it, too.
    """
    if block >= size:
        return [Span(0, size, 0, size)]
    stride = stride_of(block, halo, align, grid)
    if stride <= 0 or (size - block) % math.lcm(align, grid):
        raise ValueError(f"{size} pixels cannot be cut into blocks of {block} with a halo of {halo} and steps of {align}")
    starts = [*range(0, size - block, stride), size - block]
    cuts = [0, *(start + _up(halo, align) for start in starts[1:]), size]
    return [Span(start, start + block, *kept) for start, *kept in zip(starts, cuts, cuts[1:])]


def count_spans(size: int, block: int, halo: int, align: int, grid: int = 1) -> int:
    """How many `spans` there are, without making them. Raises ValueError where the block is too small."""
    if block >= size:
        return 1
    stride = stride_of(block, halo, align, grid)
    if stride <= 0:
        raise ValueError(f"blocks of {block} with a halo of {halo} and steps of {align} make no way")
    return math.ceil((size - block) / stride) + 1


def stride_of(block: int, halo: int, align: int, grid: int = 1) -> int:
    """How far a span begins after the one before, at most. Not positive where the block is too small."""
    step = math.lcm(align, grid)
    return (block - halo - _up(halo, align)) // step * step


def smallest_block(halo: int, align: int) -> int:
    """The smallest block that makes any way."""
    return halo + _up(halo, align) + align


def _up(value: int, align: int) -> int:
    return math.ceil(value / align) * align
