"""How images of given sizes go through a model: padded to which sizes, cut into which tiles.

sizes given -> groups of axes that go together -> a block of each, of a size that the model takes -> spans
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.following import Follows

from bioengine_runner.errors import CannotTile, TileNotPossible, TilesNotPossible, TooManyTiles
from bioengine_runner.tiling.geometry import Geometry, OutputAxis
from bioengine_runner.tiling.groups import Cut, Group, Key, Sizes, groups_of

# Passes through the model for one request: tiles times pieces of the batch. 16384 x 16384 pixels in tiles of 256 make 7,396.
MAX_PASSES = 10_000


@dataclass(frozen=True)
class Part:
    """Where a tile is along one axis of a tensor. `start`, `stop`: of the tile, beyond the end where it is padded.

    `keep`, of outputs: the part of the tile that is kept, and where it comes in the whole.
    """

    start: int
    stop: int
    keep: slice = field(default_factory=lambda: slice(None))
    place: slice = field(default_factory=lambda: slice(None))


Tile = list[tuple[Group, Cut, int]]
"""The number of its span along each group."""


class Plan:
    """Tiles of one request."""

    def __init__(self, cuts: list[tuple[Group, Cut]], batch: int, chunk: int, fill: bool) -> None:
        """
        Args:
            cuts: each group of axes with its spans.
            batch: samples given.
            chunk: samples that go through the model at once.
            fill: whether the last chunk is filled up, since the model takes no other number.
        """
        self._cuts = cuts
        self._fill = fill
        self.batch = batch
        self.chunk = chunk

    def __len__(self) -> int:
        return math.prod(len(cut.spans) for _, cut in self._cuts) * math.ceil(self.batch / self.chunk)

    @property
    def block(self) -> dict[str, int]:
        """The size of a tile along each leading axis."""
        return {group.leader.id: cut.spans[0].stop for group, cut in self._cuts}

    @property
    def pixels(self) -> int:
        """Samples times pixels that go through the model at once."""
        return self.chunk * math.prod(cut.spans[0].stop for _, cut in self._cuts)

    def missing(self, samples: slice) -> int:
        """How many samples a chunk lacks."""
        return max(0, samples.stop - self.batch) if self._fill else 0

    def tiles(self) -> Iterator[Tile]:
        numbers = [range(len(cut.spans)) for _, cut in self._cuts]
        for combination in itertools.product(*numbers):
            yield [(group, cut, number) for (group, cut), number in zip(self._cuts, combination)]

    def inputs(self, tile: Tile) -> dict[Key, Part]:
        """Where the tile is in each input axis that is cut or padded."""
        return {
            key: Part(int(cut.spans[number].start * scale), int(cut.spans[number].stop * scale))
            for group, cut, number in tile
            for key, scale in group.inputs.items()
        }

    def outputs(self, tile: Tile) -> dict[Key, Part]:
        """Which part of each output axis is kept, and where it comes."""
        return {key: _kept(cut, number, follows) for group, cut, number in tile for key, (follows, _) in group.outputs.items()}

    def output_sizes(self) -> dict[Key, int]:
        """The sizes of the output axes that follow an input, of the whole."""
        return {key: follows.of(cut.size) for group, cut in self._cuts for key, (follows, _) in group.outputs.items()}


def _kept(cut: Cut, number: int, follows: Follows) -> Part:
    span, whole = cut.spans[number], follows.of(cut.size)
    first, last = number == 0, number == len(cut.spans) - 1
    origin = int(span.start * follows.scale)
    # What the model takes from the ends of its input, it takes half of at either end.
    middle = follows.offset // 2
    start = 0 if first else min(whole, int(span.keep_start * follows.scale) + middle)
    stop = whole if last else min(whole, int(span.keep_stop * follows.scale) + middle)
    return Part(origin, origin + follows.of(span.stop - span.start), slice(start - origin, stop - origin), slice(start, stop))


class Planner:
    """Plans for one model."""

    def __init__(self, model_id: str, geometry: Geometry) -> None:
        self._model_id = model_id
        self._geometry = geometry

    def plan(self, sizes: Sizes, most_pixels: float, tile: Mapping[str, int] | None = None) -> Plan:
        """The plan for inputs of `sizes`.

        Args:
            sizes: of every axis of every input.
            most_pixels: samples times image pixels that may go through the model at once; a tile is never smaller than the
                model's halo allows.
            tile: the wanted size of tiles by axis, for those that are to be cut whatever there is of memory.

        Raises CannotTile, TileNotPossible, TilesNotPossible, TooManyTiles.
        """
        groups = groups_of(self._geometry, sizes)
        blocks = [self._wanted(group, tile) if tile and group.leader.id in tile else self._largest(group) for group in groups]
        free = [index for index, group in enumerate(groups) if group.can_be_cut and not (tile and group.leader.id in tile)]
        batch, chunk = self._batch(sizes)
        while math.prod(blocks) > most_pixels:
            smaller = [(blocks[index], index) for index in free if self._half(groups[index], blocks[index]) < blocks[index]]
            if not smaller:
                break
            _, index = max(smaller)
            blocks[index] = self._half(groups[index], blocks[index])
        fill = chunk is not None
        if chunk is None:
            chunk = max(1, int(min(batch, most_pixels / math.prod(blocks))))
        for group, block in zip(groups, blocks):
            self._check(group, block, sizes)
        self._check_count(groups, blocks, math.ceil(batch / chunk))
        return Plan([(group, group.cut(block)) for group, block in zip(groups, blocks)], batch, chunk, fill)

    def smallest_tile(self, sizes: Sizes) -> dict[str, int]:
        """The smallest tiles of inputs of `sizes`, by axis, for those axes that make more than one; no more than are allowed.

        Raises CannotTile where there is no such axis.
        """
        tile: dict[str, int] = {}
        problems: dict[str, None] = {}
        groups = groups_of(self._geometry, sizes)
        for group in groups:
            leader, least = group.leader, group.least_block
            if not group.can_be_cut:
                problems["not all of its outputs are images that could be put together from tiles"] = None
            elif not leader.is_free:
                problems[f"{leader.id} is always {leader.min}"] = None
            elif least >= group.size:
                problems[f"{leader.id} is {group.size}, and the smallest of several tiles is {least}"] = None
            else:
                tile[leader.id] = least
        if not tile:
            raise CannotTile(self._model_id, "; ".join(problems) or "its inputs are no images")
        batch, chunk = self._batch(sizes)
        blocks = [tile.get(group.leader.id, self._largest(group)) for group in groups]
        allowed = self._larger(groups, blocks, math.ceil(batch / (chunk or batch)))
        return {group.leader.id: block for group, block in zip(groups, allowed) if group.leader.id in tile}

    def _batch(self, sizes: Sizes) -> tuple[int, int | None]:
        """Samples given, and how many the model takes at once; None where that is free."""
        for tensor, axes in self._geometry.inputs.items():
            for axis in axes:
                if axis.type == "batch" and tensor in sizes:
                    return sizes[tensor][axis.id], None if axis.is_free else axis.min
        return 1, 1

    def _largest(self, group: Group) -> int:
        return group.leader.valid(group.size)

    def _half(self, group: Group, block: int) -> int:
        if not group.leader.is_free:
            return block
        return max(group.leader.valid(block // 2), group.least_block)

    def _wanted(self, group: Group, tile: Mapping[str, int]) -> int:
        """The largest size that is not larger than wanted, and the whole where that is smaller."""
        wanted, leader = tile[group.leader.id], group.leader
        smallest = group.least_block if group.size > wanted and leader.is_free else leader.min
        if wanted < smallest or (not leader.is_free and wanted != leader.min):
            raise TileNotPossible(self._model_id, leader.id, wanted, f"{smallest} or more" if leader.is_free else f"{leader.min}")
        block = leader.valid(wanted)
        return min(block if block == wanted or not leader.is_free else block - leader.step, leader.valid(group.size))

    def images(self, sizes: Sizes) -> list[str]:
        """The outputs that can be put together from tiles of inputs of `sizes`; empty if there is no image axis to cut."""

        def can_be_cut(outputs: Container[str]) -> bool:
            groups = groups_of(self._geometry.only(outputs), sizes)
            return bool(groups) and all(group.can_be_cut for group in groups)

        names = [tensor for tensor in self._geometry.outputs if can_be_cut({tensor})]
        return names if can_be_cut(names) else []

    def _check(self, group: Group, block: int, sizes: Sizes) -> None:
        leader = group.leader
        for (output, _), (follows, _) in group.outputs.items():
            if follows.offset < 0 and follows.of(group.size) < 1:
                raise CannotTile(
                    self._model_id,
                    f"{leader.id} is {group.size}, and its output '{output}' lacks {-follows.offset} pixels along it at the ends "
                    "of an image, which leaves nothing",
                )
        if block >= group.size:
            if block > group.size and any(output.follows is None for output in self._image_outputs()):
                raise CannotTile(
                    self._model_id,
                    f"{leader.id} is {group.size}, the model takes {block}, and what it makes of a padded image has no size that "
                    "could be cut back",
                    self.images(sizes),
                )
            return
        if not group.can_be_cut and leader.is_free:
            raise TilesNotPossible(self._model_id, leader.id, self.images(sizes))
        if not group.can_be_cut:
            raise CannotTile(
                self._model_id,
                f"{leader.id} is {group.size}, and the model takes {leader.min} in one piece: not all of its outputs are images "
                "that could be put together from tiles",
                self.images(sizes),
            )
        if not group.makes_way(block):
            raise CannotTile(
                self._model_id,
                f"{leader.id} is {group.size}, the model takes {block}, and its halo of {group.halo} leaves nothing of a tile",
            )

    def _check_count(self, groups: list[Group], blocks: list[int], pieces: int) -> None:
        """Refuse more passes through the model than one request may have, before any tile is made. Raises TooManyTiles."""
        tiles = _count(groups, blocks)
        if tiles * pieces <= MAX_PASSES:
            return
        larger = self._larger(groups, blocks, pieces)
        helps = _count(groups, larger) * pieces <= MAX_PASSES
        tile = {group.leader.id: block for group, block in zip(groups, larger) if group.leader.is_free and block < group.size}
        raise TooManyTiles(self._model_id, tiles, pieces, MAX_PASSES, tile if helps else {})

    def _larger(self, groups: list[Group], blocks: list[int], pieces: int) -> list[int]:
        """Blocks of at least these sizes that make no more passes than one request may have, or the largest that there are."""
        while _count(groups, blocks) * pieces > MAX_PASSES:
            larger = [
                min(group.leader.valid(2 * block), self._largest(group)) if group.leader.is_free else block
                for group, block in zip(groups, blocks)
            ]
            if larger == blocks:
                break
            blocks = larger
        return blocks

    def _image_outputs(self) -> Iterator[OutputAxis]:
        return (axis for axes in self._geometry.outputs.values() for axis in axes if axis.type in IMAGE_AXES)


def _count(groups: list[Group], blocks: list[int]) -> int:
    """How many tiles there are of blocks of these sizes."""
    return math.prod(group.count(block) for group, block in zip(groups, blocks))
