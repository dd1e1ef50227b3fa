"""From what a client sent to the arrays that a model takes: count, type, axes, sizes, dtype. Nothing is ever remapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bioengine_runner.errors import BadRequest, LossyCast, NotAnArray, WrongAxes, WrongInputCount, WrongSize, shorten
from bioengine_runner.store.manifest import Tensor


def fit_inputs(specs: Sequence[Tensor], inputs: Any) -> list[np.ndarray]:
    """The model's input arrays, one for each of `specs`, in the model's dtype and with axes that fit exactly.

    Args:
        specs: the model's inputs.
        inputs: a list with one item for each input: an array with the model's axes, or a list of arrays without the
            batch axis, which the list adds.

    Raises WrongInputCount, NotAnArray, WrongAxes, WrongSize, LossyCast.
    """
    if not isinstance(inputs, list):
        raise BadRequest(f"`inputs` is a {type(inputs).__name__}. Expected a list with one array for each input of the model.")
    if len(inputs) != len(specs):
        raise WrongInputCount([spec.id for spec in specs], len(inputs))
    arrays = [_cast(spec, _as_array(spec, item)) for spec, item in zip(specs, inputs)]
    check_shapes(specs, [array.shape for array in arrays])
    return arrays


def check_shapes(specs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> None:
    """Every shape against its tensor's axes. Raises WrongAxes, WrongSize."""
    sizes = {(spec.id, axis.id): size for spec, shape in zip(specs, shapes) for axis, size in zip(spec.axes, shape)}
    for spec, shape in zip(specs, shapes):
        if len(shape) != len(spec.axes):
            raise WrongAxes(spec.id, spec.describe_axes(), shape, _advice_on_axes(spec, shape))
        problems = []
        for axis, size in zip(spec.axes, shape):
            if axis.reference is not None:
                reference = axis.reference
                wanted = int(sizes.get((reference.tensor, reference.axis), 0) * reference.scale) + reference.offset
                if size != wanted:
                    problems.append(f"{axis.id} is {size}, it must be {wanted} to go with '{reference.tensor}'")
            elif axis.step == 0 and size != axis.min:
                problems.append(f"{axis.id} is {size}, it must be {axis.min}")
            elif size < axis.min:
                problems.append(f"{axis.id} is {size}, it must be at least {axis.min}")
            elif axis.step > 1 and (size - axis.min) % axis.step:
                lower = axis.min + (size - axis.min) // axis.step * axis.step
                problems.append(
                    f"{axis.id} is {size}, it must be {axis.min} + n*{axis.step}, such as {lower} or {lower + axis.step}"
                )
        if problems:
            raise WrongSize(spec.id, spec.describe_axes(), shape, problems)


def _as_array(spec: Tensor, item: Any) -> np.ndarray:
    if isinstance(item, list) and item and all(isinstance(part, np.ndarray) for part in item):
        return _stack(spec, item)
    if not isinstance(item, np.ndarray):
        what = "missing (None)" if item is None else f"a {type(item).__name__}, {shorten(item, 40)}"
        raise NotAnArray(spec.id, what)
    if item.dtype.kind not in "biuf":
        raise NotAnArray(spec.id, f"an array of {item.dtype.name}")
    if item.size == 0:
        raise NotAnArray(spec.id, f"an empty array of shape {item.shape}")
    return item


def _stack(spec: Tensor, parts: list[np.ndarray]) -> np.ndarray:
    """The samples of a list, joined along the batch axis."""
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1:
        raise NotAnArray(spec.id, f"a list of arrays of different shapes ({', '.join(map(str, shapes))})")
    batch_axis = spec.batch_axis
    if batch_axis is None or parts[0].ndim != len(spec.axes) - 1:
        advice = "A list of arrays adds the batch axis, so each array has the other axes only; an array is sent without the list."
        raise WrongAxes(spec.id, spec.describe_axes(), (len(parts), *shapes[0]), advice)
    return _as_array(spec, np.stack(parts, axis=batch_axis))


def _cast(spec: Tensor, array: np.ndarray) -> np.ndarray:
    """`array` in the model's dtype: without loss, or from integers to float32."""
    wanted = np.dtype(spec.dtype)
    if array.dtype == wanted or np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted, copy=False)
    if array.dtype.kind in "iu" and wanted == np.float32:
        return array.astype(wanted)
    if not _is_lossless(array, wanted):
        raise LossyCast(spec.id, array.dtype.name, spec.dtype)
    return array.astype(wanted)


def _is_lossless(array: np.ndarray, wanted: np.dtype) -> bool:
    """Whether every value of `array` has its equal in the dtype `wanted`."""
    if wanted.kind == "b":
        return False
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if not (array.min() >= limits.min and array.max() <= limits.max):  # also false where a value is NaN
            return False
    with np.errstate(all="ignore"):
        return np.array_equal(array.astype(wanted).astype(array.dtype), array, equal_nan=array.dtype.kind == "f")


def _advice_on_axes(spec: Tensor, shape: Sequence[int]) -> str:
    if len(shape) == len(spec.axes) - 1 and spec.batch_axis is not None:
        return "The batch axis seems to be missing: send image[None], or the array in a list of its own."
    return f"Send an array with {len(spec.axes)} axes in this order."
