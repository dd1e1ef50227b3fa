"""How much results depend on what is beyond a cut: the halo that a model of one size needs, and the seams of its tiles.

Both compare the same pixels in tiles that lie elsewhere. The test image is continued by its mirror image to twice its size along
one axis, as if it were drawn on a ring, and the ring is cut open at two places. So all steps of the description see the same
statistics, while each pixel has other neighbours in its tile, and another distance from the tile's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.following import Follows
from bioengine_contract.manifest import MAX_SEAM, Manifest, MeasuredHalo, Tensor

from bioengine_runner.errors import CannotTile
from bioengine_runner.inference import Pipeline
from bioengine_runner.signature import Arrays
from bioengine_runner.tiling.groups import Group


@dataclass(frozen=True)
class Halo:
    """The halo of a model: `pixels` of the input by axis, and the `difference` that is left, as a share of the output's range."""

    pixels: dict[str, int]
    difference: float


@dataclass(frozen=True)
class Seams:
    """How results differ in tiles that lie elsewhere.

    `tile`, `halo`: by axis, in pixels of the input. `differences`: the largest one of each output. `share`: the largest of all,
    as a share of the output's range.
    """

    tile: dict[str, int]
    halo: dict[str, int]
    differences: dict[str, float]
    share: float


def without_overlap(manifest: Manifest) -> Manifest:
    """The manifest for a pipeline whose tiles do not overlap along axes of one size, for `measure_halo`."""
    axes = {axis.id for spec in manifest.inputs for axis in spec.axes if axis.step == 0 and axis.type in IMAGE_AXES}
    return manifest.model_copy(update={"halo": MeasuredHalo(dict.fromkeys(axes, 0), 0.0, "")})


def measure_halo(pipeline: Pipeline, arrays: Arrays, outputs: Sequence[Tensor]) -> Halo:
    """The smallest halo along each axis of one size beyond which results differ by less than `MAX_SEAM` of their range.

    At most a quarter of an axis. If that is not enough, as for models that see their whole image, it is the one that is used
    without a measurement, and `difference` says what it leaves.

    Args:
        pipeline: the model, with a manifest `without_overlap`.
        arrays: its test inputs, of the sizes that it takes.
        outputs: of the model.

    Raises CannotTile where there is no such axis, ValueError where the results cannot be compared, and what the model raises.
    """
    pixels: dict[str, int] = {}
    left = 0.0
    for group in _fixed(pipeline, arrays):
        if group.halo:
            continue  # declared, or known from the sizes of the outputs
        size = group.leader.min
        profiles = _compared(pipeline, arrays, outputs, group, cut_every=size)
        if any(profile.is_flat for profile in profiles.values()):
            raise ValueError("its result for the test image is the same everywhere")
        enough = (halo for halo in range(size // 4 + 1) if _beyond(profiles, halo) < MAX_SEAM)
        halo = next(enough, _unmeasured(group).halo_for(size))
        pixels[group.leader.id], left = halo, max(left, _beyond(profiles, halo))
    return Halo(pixels, left)


def compare_shifted(pipeline: Pipeline, arrays: Arrays, outputs: Sequence[Tensor]) -> Seams:
    """How far the same pixels differ in tiles that lie elsewhere, for a model that takes images of one size.

    What is less than the halo away from the ends of the image is not compared: there, it is not a seam that makes the difference.

    Args: as `measure_halo`. Raises CannotTile where there is no axis of one size, and what the model raises.
    """
    groups = _fixed(pipeline, arrays)
    tile = {group.leader.id: group.leader.min for group in groups}
    halos = {group.leader.id: group.halo_for(group.leader.min) for group in groups}
    differences: dict[str, float] = {}
    share = 0.0
    for group in groups:
        halo = halos[group.leader.id]
        profiles = _compared(pipeline, arrays, outputs, group, cut_every=2 * group.leader.min)
        for id, profile in profiles.items():
            differences[id] = max(differences.get(id, 0.0), profile.largest(halo))
        share = max(share, _beyond(profiles, halo))
    return Seams(tile, halos, differences, share)


def _compared(pipeline: Pipeline, arrays: Arrays, outputs: Sequence[Tensor], group: Group, cut_every: int) -> dict[str, _Profile]:
    """The results of the ring, cut open at two places, by output. `cut_every`: pixels between the cuts that are looked at."""
    images = pipeline.signature.images(arrays)
    turn = _turn(_unmeasured(group))
    axes = pipeline.signature.axes_of(group)
    ring = [
        array if array is None or axis is None else np.concatenate([array, np.flip(array, axis)], axis)
        for array, (axis, _) in zip(arrays, axes)
    ]
    turned = [
        array if array is None or axis is None else np.roll(array, -int(turn * scale), axis)
        for array, (axis, scale) in zip(ring, axes)
    ]
    results = zip(pipeline.predict(ring, outputs=images), pipeline.predict(turned, outputs=images))
    profiles = {}
    for spec, (one, other) in zip((spec for spec in outputs if spec.id in images), results):
        key = next(key for key in group.outputs if key[0] == spec.id)
        axis = [axis.id for axis in spec.axes].index(key[1])
        follows, _ = group.outputs[key]
        profiles[spec.id] = _Profile.of(one, other, axis, follows, (2 * group.leader.min, turn, cut_every))
    return profiles


def _beyond(profiles: Mapping[str, _Profile], halo: int) -> float:
    return max(profile.beyond(halo) for profile in profiles.values())


def share_of_range(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two results as a share of the range of the first; of whole numbers, the share that differs."""
    return float(_differences(one, other).max(initial=0)) if not _is_discrete(one) else float((one != other).mean())


@dataclass(frozen=True)
class _Profile:
    """How two results of one output differ, for each of their pixels along an axis.

    `distances`: from the nearest cut, in whole pixels of the input. `shares`: of the output's range, or for whole numbers of the
    pixels that differ. `absolute`: the largest difference. `is_flat`: whether the output is the same everywhere.
    """

    distances: np.ndarray
    shares: np.ndarray
    absolute: np.ndarray
    is_discrete: bool
    is_flat: bool

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray, axis: int, follows: Follows, ring: tuple[int, int, int]) -> _Profile:
        """`ring`: pixels of the input all around, by which `other` is turned against `one`, and between two cuts."""
        around, step, cut = (int(pixels * follows.scale) for pixels in ring)
        taken = follows.offset // 2  # what the model takes from the ends of its input
        here = np.arange(other.shape[axis]) - taken
        there = (here + step) % around
        known = (there + taken >= 0) & (there + taken < one.shape[axis])
        here, there = here[known], there[known]
        near = np.minimum.reduce([here % cut, cut - 1 - here % cut, there % cut, cut - 1 - there % cut])
        one, other = np.moveaxis(one, axis, 0)[there + taken], np.moveaxis(other, axis, 0)[here + taken]
        others = tuple(range(1, one.ndim))
        absolute = np.abs(one.astype(np.float64) - other).max(others)
        is_discrete = _is_discrete(one)
        shares = (one != other).mean(others) if is_discrete else _differences(one, other).max(others)
        return cls((near / float(follows.scale)).astype(int), shares, absolute, is_discrete, bool(np.ptp(one) == 0))

    def beyond(self, halo: int) -> float:
        """The largest share at pixels that are `halo` pixels or more away from a cut; of whole numbers, of all of them."""
        found = self.shares[self.distances >= halo]
        if found.size == 0:
            return 0.0
        return float(found.mean() if self.is_discrete else found.max())

    def largest(self, halo: int) -> float:
        return float(self.absolute[self.distances >= halo].max(initial=0))


def _differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The differences of all values, as a share of the range of the first result. Raises ValueError where that has none."""
    one = one.astype(np.float64)
    span = float(np.ptp(one))
    if not np.isfinite(span):
        raise ValueError("its result for the test image has values that are not finite")
    shares: np.ndarray = np.abs(one - other) / (span or 1.0)
    return shares


def _is_discrete(result: np.ndarray) -> bool:
    """Whether a result has whole numbers, such as labels or a mask, of whatever dtype."""
    return result.dtype.kind in "biu" or bool(np.array_equal(result, np.rint(result)))


def _fixed(pipeline: Pipeline, arrays: Arrays) -> list[Group]:
    """The axes of one size that can be cut. Raises CannotTile where there are none."""
    signature = pipeline.signature
    images = signature.images(arrays)
    groups = [group for group in signature.groups(arrays, images) if not group.leader.is_free and group.can_be_cut]
    if not images or not groups:
        raise CannotTile(signature.model_id, "it has no image axis of one size that an output follows")
    return groups


def _unmeasured(group: Group) -> Group:
    """The group as it is without a measurement."""
    return replace(group, leader=replace(group.leader, measured_halo=None))


def _turn(group: Group) -> int:
    """About half of an image, in steps in which tiles lie, and no multiple of twice such a step if that is possible."""
    size = group.leader.min
    step = group.grid_for(size)
    count = max(1, size // 2 // step)
    return step * (count - 1 if count > 1 and count % 2 == 0 else count)
