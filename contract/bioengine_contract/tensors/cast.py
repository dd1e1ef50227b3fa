"""From the dtype that an array has to the model's: without loss, or with a word, or refused with what to do instead.

Integers become floats, and floats shorter floats, as users of scikit-image expect, whose images are float64. What would make
another image of it is refused: fractions that an integer has no room for, values beyond the range, whole numbers (labels,
counts) that a float no longer tells apart.

An array may be as large as a request: beside the result, only blocks of it are in memory (`blocks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bioengine_contract.manifest import Tensor
from bioengine_contract.tensors.blocks import blocks
from bioengine_contract.tensors.errors import LossyCast

# What images are scaled to at most: a camera's range. An int32 that is filled to its end gains nothing, and overflows on the way.
_MAX_SCALED = 65535

# Fewer whole values than these are no picture any more, so that rounding is not worth a word.
_MIN_LEVELS = 16


def cast(spec: Tensor, array: np.ndarray, warnings: list[str]) -> np.ndarray:
    """`array` in the model's dtype.

    Args:
        spec: the input.
        array: of booleans, integers or floats, not empty.
        warnings: gets a sentence where the dtype of an image is cut short.

    Raises LossyCast, with a way that works.
    """
    wanted = np.dtype(spec.dtype)
    kinds = array.dtype.kind + wanted.kind
    if array.dtype == wanted or kinds[0] == "b":
        return array.astype(wanted, copy=False)
    if kinds in ("if", "uf"):
        return _integers_to_floats(spec, array, wanted, warnings)
    if np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted)
    if kinds == "ff":
        return _shorter_floats(spec, array, wanted, warnings)
    seen = _seen(array)
    is_lossless = _is_lossless(array, wanted, seen)
    if seen.spoilt or not is_lossless:
        raise LossyCast(spec.id, array.dtype.name, spec.dtype, *_other_ways(array, wanted, seen, is_lossless))
    return array.astype(wanted)


def _integers_to_floats(spec: Tensor, array: np.ndarray, wanted: np.dtype, warnings: list[str]) -> np.ndarray:
    """To float32 always, as clients of the public server have it; to others where every value survives."""
    with np.errstate(all="ignore"):
        floats = array.astype(wanted)
    largest = max(abs(int(array.min())), abs(int(array.max())))
    if largest <= _largest_exact(wanted):
        return floats
    if largest > float(np.finfo(wanted).max):
        raise _beyond(spec, array, largest)
    lost = _lost(
        spec,
        array.size,
        # It holds 64 bits, and so both sides of it.
        (block[rounded.astype(np.longdouble) != block.astype(np.longdouble)] for block, rounded in blocks(array, floats)),
    )
    if lost:
        if wanted != np.float32:
            raise LossyCast(spec.id, array.dtype.name, spec.dtype, lost, _labels_or_intensities(spec))
        warnings.append(f"Input '{spec.id}' is {array.dtype.name} and was cast to {spec.dtype}: {lost}. They were rounded.")
    return floats


def _shorter_floats(spec: Tensor, array: np.ndarray, wanted: np.dtype, warnings: list[str]) -> np.ndarray:
    """Rounded, and said so. Raises LossyCast for what would be another image."""
    with np.errstate(all="ignore"):
        floats = array.astype(wanted)
    limits = np.finfo(wanted)
    # Without NaN, which is NaN afterwards as well; and without infinities.
    largest = max(abs(float(np.fmin.reduce(array, axis=None))), abs(float(np.fmax.reduce(array, axis=None))))
    if np.isinf(largest):
        largest = max(float(np.abs(block[np.isfinite(block)]).max(initial=0)) for (block,) in blocks(array))
    if largest > float(limits.max) or 0 < largest < float(limits.tiny):
        raise _beyond(spec, array, largest)
    if largest > _largest_exact(wanted):
        # From where all numbers of the given dtype are whole, they count nothing.
        end = _largest_exact(array.dtype)
        lost = _lost(
            spec,
            array.size,
            (
                block[(block == np.rint(block)) & (np.abs(block) < end) & (rounded.astype(block.dtype) != block)]
                for block, rounded in blocks(array, floats)
            ),
        )
        if lost:
            raise LossyCast(spec.id, array.dtype.name, spec.dtype, lost, _labels_or_intensities(spec))
    warnings.append(
        f"Input '{spec.id}' is {array.dtype.name} and was cast to {spec.dtype}, which the model takes: its values are rounded to "
        f"about {limits.precision} digits."
    )
    return floats


def _largest_exact(dtype: np.dtype) -> int:
    """Up to which a float has every whole number."""
    return int(2 ** (np.finfo(dtype).nmant + 1))


def _beyond(spec: Tensor, array: np.ndarray, largest: float) -> LossyCast:
    """Values that would all be infinite, or 0."""
    limits = np.finfo(spec.dtype)
    ends = f"holds up to {limits.max:.3g}" if largest > 1 else f"does not tell what is below {limits.tiny:.3g} from 0"
    return LossyCast(
        spec.id,
        array.dtype.name,
        spec.dtype,
        f"its values reach {largest:.3g}, and {spec.dtype} {ends}",
        f"Rescale them first, for example with `(image / {largest:.6g}).astype('{spec.dtype}')`.",
    )


def _lost(spec: Tensor, size: int, changed: Iterable[np.ndarray]) -> str:
    """What is said of values that the dtype does not have; nothing where there are none.

    Args:
        spec: the input.
        size: number of all values.
        changed: those that are other numbers afterwards, block by block.
    """
    count, example = 0, 0
    for values in changed:
        if not count and values.size:
            example = int(values[0])
        count += values.size
    if not count:
        return ""
    return f"{count} of its {size} values are whole numbers that {spec.dtype} does not have, such as {example}"


def _labels_or_intensities(spec: Tensor) -> str:
    return (
        "If they are labels of objects, number them anew, from 1 on; if they are intensities, whose last digits do not matter, "
        f"round them with `image.astype('{spec.dtype}')`."
    )


@dataclass(frozen=True)
class _Seen:
    """An array's range, NaN and infinity taken for 0, and how many of these there are."""

    low: float
    high: float
    spoilt: int


def _seen(array: np.ndarray) -> _Seen:
    low, high = array.min(), array.max()
    if np.isfinite(low) and np.isfinite(high):
        return _Seen(low.item(), high.item(), 0)
    lows, highs, spoilt = [], [], 0
    for (block,) in blocks(array):
        cleaned = _cleaned(block)
        lows.append(cleaned.min().item())
        highs.append(cleaned.max().item())
        spoilt += block.size - int(np.count_nonzero(np.isfinite(block)))
    return _Seen(min(lows), max(highs), spoilt)


def _cleaned(block: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(block), block, 0) if block.dtype.kind == "f" else block


def _is_lossless(array: np.ndarray, wanted: np.dtype, seen: _Seen) -> bool:
    """Whether every value of `array` has its equal in the dtype `wanted`, of integers or booleans; NaN and infinity as 0."""
    least, most = _range(wanted)
    if not (int(seen.low) >= least and int(seen.high) <= most):
        return False
    with np.errstate(all="ignore"):
        cleaned = (_cleaned(block) for (block,) in blocks(array))
        return all(np.array_equal(block.astype(wanted).astype(block.dtype), block) for block in cleaned)


def _range(wanted: np.dtype) -> tuple[int, int]:
    return (0, 1) if wanted.kind == "b" else (int(np.iinfo(wanted).min), int(np.iinfo(wanted).max))


def _other_ways(array: np.ndarray, wanted: np.dtype, seen: _Seen, is_lossless: bool) -> tuple[str, str]:
    """What integers or booleans would lose of these values, and what to do, by the range that is seen.

    `is_lossless`: with 0 for NaN and infinity.
    """
    if not seen.spoilt:
        return _ways_by_range(array, wanted, seen)
    problem = f"{seen.spoilt} of its {array.size} values are NaN or infinite, which {wanted.name} has not"
    replace = "Replace them first, for example with `image = np.where(np.isfinite(image), image, 0)`."
    if is_lossless:
        return problem, f"{replace} Then `image.astype('{wanted.name}')` changes nothing else."
    other_problem, advice = _ways_by_range(array, wanted, seen)
    return f"{problem}, and {other_problem}", f"{replace} {advice}"


def _ways_by_range(array: np.ndarray, wanted: np.dtype, seen: _Seen) -> tuple[str, str]:
    """The same for finite values."""
    low, high, name = float(seen.low), float(seen.high), wanted.name
    values = f"its values are from {low:.6g} to {high:.6g}"
    least, most = _range(wanted)
    if wanted.kind == "b":
        limit = "0.5" if 0 <= low and high <= 1 else "0"
        return f"{values}, and bool has False and True", f"Say which of them are true, for example with `image > {limit}`."
    top = min(most, _MAX_SCALED)
    rescaled = f"`np.interp(image, (image.min(), image.max()), (0, {top})).round().astype('{name}')`"
    fits = round(low) >= least and round(high) <= most
    if array.dtype.kind != "f" or not fits:
        problem = f"{values}, and {name} holds {least} to {most}"
        if low == high:
            return problem, f"Cut them off, for example with `image.clip({least}, {top}).astype('{name}')`."
        labels = "" if array.dtype.kind == "f" else " Labels of objects are not rescaled: number them anew, from 1 on."
        return problem, f"Rescale the range that is there to 0 to {top}, for example with {rescaled}.{labels}"
    problem = f"{values}, and their fractions would be lost"
    # Not a dim image, of which a few steps would be left.
    if high <= 1 and low >= (0 if least == 0 else -1) and (high - low) * top >= _MIN_LEVELS:
        image = "image" if array.dtype.itemsize > 2 else "image.astype('float32')"  # float16 ends at 65504
        return problem, f"Scale them, 1 to {top}: `({image} * {top}).round().astype('{name}')`."
    if high - low < _MIN_LEVELS and low != high:
        return problem, f"Rescale the range that is there to 0 to {top}, for example with {rescaled}."
    rounded = f"`image.round().astype('{name}')`"
    if low == high:
        return problem, f"Round them, with {rounded}."
    return (
        problem,
        f"Round them, with {rounded}; or, for a model that takes any range, rescale them to 0 to {top}, with {rescaled}.",
    )
