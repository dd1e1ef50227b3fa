"""One request on its way through a model: cut into blocks, and put together from what the weights make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from bioimageio.core import PredictionPipeline, Sample, Tensor
from bioimageio.core.axis import AxisId
from bioimageio.core.common import MemberId
from bioimageio.core.stat_measures import Measure, MeasureValue, Stat

from bioengine_runner.processing import Processing
from bioengine_runner.tiling.groups import Key
from bioengine_runner.tiling.plan import Part, Plan, Tile

BATCH = "batch"

Axes = dict[MemberId, Sequence[AxisId]]
"""The axes of each tensor, in order."""


@dataclass(frozen=True)
class Block:
    """What goes through the weights at once: some samples of one tile.

    `arrays`: preprocessed, of valid sizes, by input. `stat`: the statistics of the whole that concern it.
    """

    arrays: dict[MemberId, np.ndarray]
    tile: Tile
    samples: slice
    stat: Stat


class Run:
    """One request on its way: cut into blocks, and put together from what the weights make of them."""

    def __init__(
        self,
        pipeline: PredictionPipeline,
        sample: Sample,
        plan: Plan,
        inputs: Axes,
        outputs: Axes,
        wanted: Sequence[MemberId] | None = None,
    ) -> None:
        """`wanted`: the outputs that are put together; None for all."""
        self.plan = plan
        self._wanted = list(outputs) if wanted is None else wanted
        self._processing = Processing(pipeline, inputs)
        self._sample = sample
        self._inputs = inputs
        self._outputs = outputs
        self._whole: dict[MemberId, np.ndarray] = {}
        # Up to the last operator that needs the whole image.
        self._processing.before_whole(sample)

    def blocks(self) -> Iterator[Block]:
        for tile in self.plan.tiles():
            parts = self.plan.inputs(tile)
            for start in range(0, self.plan.batch, self.plan.chunk):
                samples = slice(start, start + self.plan.chunk)
                members = {
                    id: Tensor(self._cut(tensor.to_numpy(), id, axes, parts, samples), dims=axes)
                    for (id, tensor), axes in ((item, self._inputs[item[0]]) for item in self._sample.members.items())
                }
                stat = {measure: self._cut_stat(measure, value, parts, samples) for measure, value in self._sample.stat.items()}
                block = Sample(members=members, stat=stat, id=None)
                self._processing.before_tile(block)
                yield Block({id: tensor.to_numpy() for id, tensor in block.members.items()}, tile, samples, block.stat)

    def _cut_stat(self, measure: Measure, value: MeasureValue, parts: Mapping[Key, Part], samples: slice) -> MeasureValue:
        """A statistic for some samples of a tile: what was taken for each sample, or along an image axis, is cut as these are."""
        if not isinstance(value, Tensor) or not value.dims:
            return value
        return Tensor(self._cut(value.to_numpy(), str(measure.member_id), value.dims, parts, samples), dims=value.dims)

    def _cut(self, array: np.ndarray, id: str, axes: Sequence[str], parts: Mapping[Key, Part], samples: slice) -> np.ndarray:
        """A part of a whole input; what lies beyond its end is mirrored."""
        index, padding = [], []
        for axis, size in zip(axes, array.shape):
            if axis == BATCH:
                # The last chunk of a model that takes so many samples and no fewer is filled up.
                index.append(samples)
                padding.append((0, self.plan.missing(samples)))
            elif part := parts.get((id, axis)):
                index.append(slice(part.start, part.stop))
                padding.append((0, max(0, part.stop - size)))
            else:
                index.append(slice(None))
                padding.append((0, 0))
        cut = array[tuple(index)]
        return np.pad(cut, padding, mode="reflect") if any(after for _, after in padding) else cut

    def put(self, block: Block, outputs: Mapping[MemberId, np.ndarray]) -> None:
        """Keep what the weights made of a block, post-processed as far as tiles can be."""
        members = {id: Tensor(array, dims=self._outputs[id]) for id, array in outputs.items()}
        sample = Sample(members=members, stat=block.stat, id=None)
        self._processing.after_tile(sample)
        parts, sizes = self.plan.outputs(block.tile), self.plan.output_sizes()
        for id, tensor in sample.members.items():
            if id not in self._wanted and len(self.plan) > 1:
                continue
            array, axes = tensor.to_numpy(), [str(axis) for axis in tensor.dims]
            keep = tuple(self._kept(id, axis, parts, block) for axis in axes)
            if len(self.plan) == 1:
                self._whole[id] = array[keep]
                continue
            if id not in self._whole:
                shape = [
                    self.plan.batch if axis == BATCH else sizes.get((id, axis), size) for axis, size in zip(axes, array.shape)
                ]
                self._whole[id] = np.empty(shape, array.dtype)
            place = tuple(self._place(id, axis, parts, block) for axis in axes)
            self._whole[id][place] = array[keep]

    def _place(self, id: str, axis: str, parts: Mapping[Key, Part], block: Block) -> slice:
        if axis == BATCH:
            return slice(block.samples.start, min(block.samples.stop, self.plan.batch))
        part = parts.get((id, axis))
        return slice(None) if part is None else part.place

    def _kept(self, id: str, axis: str, parts: Mapping[Key, Part], block: Block) -> slice:
        if axis == BATCH:
            return slice(0, min(self.plan.chunk, self.plan.batch - block.samples.start))
        part = parts.get((id, axis))
        return slice(None) if part is None else part.keep

    def result(self) -> list[np.ndarray]:
        sample = Sample(
            members={id: Tensor(array, dims=self._outputs[id]) for id, array in self._whole.items()},
            stat=self._sample.stat,
            id=None,
        )
        self._processing.after_whole(sample)
        return [np.asarray(sample.members[id].data) for id in self._wanted]
