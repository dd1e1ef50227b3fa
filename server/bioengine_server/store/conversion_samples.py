"""The random images on which converted weights have to agree with the original, and what counts as agreement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bioengine_contract.axes import BATCH
from bioengine_contract.manifest import Axis, Manifest

from bioengine_server.store.conversion_run import NotConverted

_MORE_PIXELS = 16  # by which another size differs at least from that of the test image
_MAX_VALUES = 1 << 26  # of all inputs of a sample; a description may allow any size
_SMALLEST = 1e-3  # largest value of an output; one that is zero everywhere has rounding errors as well
_PART = 1 << 20  # values that are compared at once

Shape = tuple[int, ...]


def choose_samples(manifest: Manifest, package: Path) -> list[list[np.ndarray]]:
    """Random samples, each with an array of float32 for each input of the model. Raises NotConverted.

    The first has values around 0, and one more image in its batch if batches are free; the second values from 0 to 1. They have
    the size of the test image. If other sizes are possible, there is a third.

    Args:
        manifest, package: of the package, and its folder.
    """
    random = np.random.default_rng()
    shapes = _test_shapes(manifest, package)
    if not _is_possible(shapes):
        raise NotConverted(manifest.id, f"its test image has more than {_MAX_VALUES / 1e6:.0f} million values")
    samples = [
        [random.standard_normal(shape, np.float32) for shape in _with_batch(manifest, shapes)],
        [random.random(shape, np.float32) for shape in shapes],
    ]
    if (other := _other_sizes(manifest, shapes)) != shapes and _is_possible(other):
        samples.append([random.standard_normal(shape, np.float32) for shape in other])
    return samples


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference of two arrays of one shape; NaN equals NaN. Infinite where only one of them is finite."""
    largest = 0.0
    for some, others in zip(_parts(one), _parts(other)):
        with np.errstate(invalid="ignore"):
            differ = (some != others) & ~(np.isnan(some) & np.isnan(others))
            differences = np.abs(some[differ] - others[differ])
        largest = max(largest, float(np.where(np.isnan(differences), np.inf, differences).max(initial=0)))
    return largest


def is_same(original: np.ndarray, differs: float, tolerance: float) -> bool:
    """Whether a difference from an output of the original is one of rounding: at most this part of its largest value."""
    return differs <= tolerance * max(_SMALLEST, _largest(original))


def _largest(array: np.ndarray) -> float:
    return max((float(np.abs(part[np.isfinite(part)]).max(initial=0)) for part in _parts(array)), default=0.0)


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array as float64 in parts, because as a whole it may be larger than the memory."""
    flat = array.reshape(-1)
    yield from (flat[start : start + _PART].astype(np.float64) for start in range(0, flat.size, _PART))


def _test_shapes(manifest: Manifest, package: Path) -> list[Shape]:
    shapes: list[Shape] = []
    for name, spec in zip(manifest.test_inputs, manifest.inputs):
        try:
            shape = np.load(package / name, mmap_mode="r", allow_pickle=False).shape
        except Exception:  # NumPy's reader of headers raises what Python's parser does; of a .npz, there is no shape
            raise NotConverted(manifest.id, f"its test input {name} cannot be read") from None
        if len(shape) != len(spec.axes):
            raise NotConverted(manifest.id, f"its test input {name} does not have the axes of its description")
        shapes.append(shape)
    if len(shapes) != len(manifest.inputs):
        raise NotConverted(manifest.id, "it has no test image for each input")
    return shapes


def _with_batch(manifest: Manifest, shapes: list[Shape]) -> list[Shape]:
    """The shapes with one sample more in each batch, if all batches are free."""
    larger: list[Shape] = []
    for shape, spec in zip(shapes, manifest.inputs):
        place = spec.batch_axis
        if place is None or spec.axes[place].step == 0:
            return shapes
        larger.append((*shape[:place], shape[place] + 1, *shape[place + 1 :]))
    return larger if _is_possible(larger) else shapes


def _is_possible(shapes: list[Shape]) -> bool:
    """Whether there can be an image of these shapes, here."""
    return all(size > 0 for shape in shapes for size in shape) and sum(map(math.prod, shapes)) <= _MAX_VALUES


def _other_sizes(manifest: Manifest, shapes: list[Shape]) -> list[Shape]:
    """Shapes that differ from these in all sizes that are free, and follow where one size depends on another."""
    sizes = {
        (spec.id, axis.id): _other_size(axis, size)
        for spec, shape in zip(manifest.inputs, shapes)
        for axis, size in zip(spec.axes, shape)
    }
    for spec in manifest.inputs:
        for axis in spec.axes:
            if (reference := axis.reference) is not None:
                size = sizes.get((reference.tensor, reference.axis), 0)
                sizes[spec.id, axis.id] = reference.of(size)
    return [tuple(sizes[spec.id, axis.id] for axis in spec.axes) for spec in manifest.inputs]


def _other_size(axis: Axis, size: int) -> int:
    if axis.type == BATCH or axis.step == 0 or axis.reference is not None:
        return size
    change = -(-_MORE_PIXELS // axis.step) * axis.step
    return size - change if size - change >= axis.min else size + change
