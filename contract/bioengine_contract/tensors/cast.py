"""Cast an array to the model's dtype: without loss, or with a warning, or refused with an error that says what to do instead.

Integers are cast to floats, and floats to shorter floats, as users of scikit-image expect, whose images are float64. A cast that
would change the image is refused: fractions cast to integers, values outside of the range, whole numbers (labels, counts) that a
shorter float can no longer distinguish.

Arrays may be as large as a request allows, so temporary copies are made only of blocks (`blocks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bioengine_contract.manifest import Tensor
from bioengine_contract.tensors.blocks import blocks
from bioengine_contract.tensors.errors import LossyCast

# Errors suggest to scale images to this range, a camera's, at most. The full range of int32 gains nothing, and can overflow.
_MAX_SCALED = 65535

# An image that is rounded to fewer values than these is useless, so errors do not suggest rounding then.
_MIN_LEVELS = 16


def cast(spec: Tensor, array: np.ndarray, warnings: list[str]) -> np.ndarray:
    """`array` in the model's dtype.

    Args:
        spec: the input.
        array: of booleans, integers or floats, not empty.
        warnings: a sentence is appended if values were rounded.

    Raises LossyCast, whose message says how to convert the array.
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
    """Cast to float32 always, as the public server does; to other floats only if every value stays the same."""
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
        # A longdouble has a mantissa of 64 bits, so it holds the integers and the floats exactly.
        (block[rounded.astype(np.longdouble) != block.astype(np.longdouble)] for block, rounded in blocks(array, floats)),
    )
    if lost:
        if wanted != np.float32:
            raise LossyCast(spec.id, array.dtype.name, spec.dtype, lost, _labels_or_intensities(spec))
        warnings.append(f"Input '{spec.id}' is {array.dtype.name} and was cast to {spec.dtype}: {lost}. They were rounded.")
    return floats


def _shorter_floats(spec: Tensor, array: np.ndarray, wanted: np.dtype, warnings: list[str]) -> np.ndarray:
    """Round, with a warning. Raises LossyCast if the cast would change the image."""
    with np.errstate(all="ignore"):
        floats = array.astype(wanted)
    limits = np.finfo(wanted)
    # NaN and infinities are left out: they stay what they are.
    largest = max(abs(float(np.fmin.reduce(array, axis=None))), abs(float(np.fmax.reduce(array, axis=None))))
    if np.isinf(largest):
        largest = max(float(np.abs(block[np.isfinite(block)]).max(initial=0)) for (block,) in blocks(array))
    if largest > float(limits.max) or 0 < largest < float(limits.tiny):
        raise _beyond(spec, array, largest)
    if largest > _largest_exact(wanted):
        # Where the array's own dtype has only whole numbers, a whole number is not a count or a label.
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
    """The largest number up to which a float dtype has every whole number."""
    return int(2 ** (np.finfo(dtype).nmant + 1))


def _beyond(spec: Tensor, array: np.ndarray, largest: float) -> LossyCast:
    """The error for values that are too large or too small for the dtype, and would become infinite or 0."""
    limits = np.finfo(spec.dtype)
    ends = f"holds up to {limits.max:.3g}" if largest > 1 else f"cannot tell values below {limits.tiny:.3g} from 0"
    return LossyCast(
        spec.id,
        array.dtype.name,
        spec.dtype,
        f"its values reach {largest:.3g}, but {spec.dtype} {ends}",
        f"Rescale them first, for example with `(image / {largest:.6g}).astype('{spec.dtype}')`.",
    )


def _lost(spec: Tensor, size: int, changed: Iterable[np.ndarray]) -> str:
    """A phrase about the values that the new dtype cannot represent; empty if there are none.

    Args:
        spec: the input.
        size: the number of all values.
        changed: the values that the cast changes, block by block.
    """
    count, example = 0, 0
    for values in changed:
        if not count and values.size:
            example = int(values[0])
        count += values.size
    if not count:
        return ""
    return f"{count} of its {size} values are whole numbers that {spec.dtype} cannot represent, such as {example}"


def _labels_or_intensities(spec: Tensor) -> str:
    return (
        "If they are labels of objects, renumber them from 1; if they are intensities, whose last digits do not matter, "
        f"round them with `image.astype('{spec.dtype}')`."
    )


@dataclass(frozen=True)
class _Seen:
    """An array's range, with NaN and infinity counted as 0, and the number of NaN and infinite values (`spoilt`)."""

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
    """Whether the dtype `wanted` (integers or booleans) has every value of `array`; NaN and infinity count as 0."""
    least, most = _range(wanted)
    if not (int(seen.low) >= least and int(seen.high) <= most):
        return False
    with np.errstate(all="ignore"):
        cleaned = (_cleaned(block) for (block,) in blocks(array))
        return all(np.array_equal(block.astype(wanted).astype(block.dtype), block) for block in cleaned)


def _range(wanted: np.dtype) -> tuple[int, int]:
    return (0, 1) if wanted.kind == "b" else (int(np.iinfo(wanted).min), int(np.iinfo(wanted).max))


def _other_ways(array: np.ndarray, wanted: np.dtype, seen: _Seen, is_lossless: bool) -> tuple[str, str]:
    """What a cast to integers or booleans would lose, and a suggestion that depends on the range of the values.

    `is_lossless`: whether nothing else is lost once NaN and infinity are replaced by 0.
    """
    if not seen.spoilt:
        return _ways_by_range(array, wanted, seen)
    problem = f"{seen.spoilt} of its {array.size} values are NaN or infinite, which {wanted.name} cannot represent"
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
        return f"{values}, but bool has only False and True", f"Choose which are true, for example with `image > {limit}`."
    top = min(most, _MAX_SCALED)
    rescaled = f"`np.interp(image, (image.min(), image.max()), (0, {top})).round().astype('{name}')`"
    fits = round(low) >= least and round(high) <= most
    if array.dtype.kind != "f" or not fits:
        problem = f"{values}, but {name} holds {least} to {most}"
        if low == high:
            return problem, f"Clip them, for example with `image.clip({least}, {top}).astype('{name}')`."
        labels = "" if array.dtype.kind == "f" else " Do not rescale labels of objects: renumber them from 1."
        return problem, f"Rescale them to 0 to {top}, for example with {rescaled}.{labels}"
    problem = f"{values}, and their fractions would be lost"
    # A dim image, with a small part of the range, is not scaled by a constant: few different values would be left.
    if high <= 1 and low >= (0 if least == 0 else -1) and (high - low) * top >= _MIN_LEVELS:
        image = "image" if array.dtype.itemsize > 2 else "image.astype('float32')"  # float16 ends at 65504
        return problem, f"Scale them so that 1 becomes {top}: `({image} * {top}).round().astype('{name}')`."
    if high - low < _MIN_LEVELS and low != high:
        return problem, f"Rescale them to 0 to {top}, for example with {rescaled}."
    rounded = f"`image.round().astype('{name}')`"
    if low == high:
        return problem, f"Round them, with {rounded}."
    return (
        problem,
        f"Round them, with {rounded}; or, for a model that takes any range, rescale them to 0 to {top}, with {rescaled}.",
    )
