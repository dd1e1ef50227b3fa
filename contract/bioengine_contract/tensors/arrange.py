"""Bring an array's axes into the model's order. Axes are never guessed from sizes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bioengine_contract.errors import shorten
from bioengine_contract.manifest import Tensor
from bioengine_contract.tensors.errors import BadAxes, WrongAxes
from bioengine_contract.tensors.hints import fits_channel, letter, letters, may_be_missing, other_readings, run_one_by_one


def axes_of_inputs(axes: Any, count: int, given: int | None = None) -> list[str | None]:
    """The request's `axes` for each input, in lower case; None for inputs whose axes were not given. Raises BadAxes.

    Args:
        axes: the option as the client sent it.
        count: the number of the model's inputs.
        given: the number of inputs in the request, which may leave out optional ones at the end.
    """
    if axes is None or isinstance(axes, str):
        axes = [axes] * count
    if (
        not isinstance(axes, list)
        or len(axes) not in (count, given)
        or not all(item is None or isinstance(item, str) for item in axes)
    ):
        raise BadAxes(f"`axes` is {shorten(axes)}. Expected a string such as 'yx', or a list with one for each input.")
    return [None if item is None else item.lower() for item in axes] + [None] * (count - len(axes))


def arranged(spec: Tensor, array: np.ndarray, axes: str | None) -> np.ndarray:
    """`array` with the model's axes, in the model's order.

    Args:
        spec: the input.
        array: its axes are those that `axes` names.
        axes: one letter for each axis of the array, such as "yxc". None: see `completed`.

    Raises BadAxes, WrongAxes.
    """
    if axes is None:
        return completed(spec, array)
    known, given = letters(spec), axes.lower()
    if len(given) != array.ndim:
        raise BadAxes(
            f"Input '{spec.id}' has the shape {array.shape}, but axes {given!r} names {len(given)} axes. Give a letter for each."
        )
    if len(set(given)) != len(given):
        raise BadAxes(f"The axes {given!r} of input '{spec.id}' name one axis twice. Give each axis a different letter.")
    for name, size in zip(given, array.shape):
        if name not in known and size != 1:
            raise BadAxes(
                f"Input '{spec.id}' has {size} along {name!r}, an axis that the model does not have. "
                + run_one_by_one(spec, array.shape, given, name)
            )
    kept = array.reshape([size for name, size in zip(given, array.shape) if name in known])
    order = [name for name in given if name in known]
    for axis in spec.axes:
        if letter(axis) not in order and not may_be_missing(axis):
            raise BadAxes(f"Input '{spec.id}' has the axes {given!r}, but the model also needs {axis.describe()}.")
    present = [name for name in known if name in order]
    moved = kept.transpose([order.index(name) for name in present])
    return moved[tuple(slice(None) if name in order else None for name in known)]


def completed(spec: Tensor, array: np.ndarray, of: str = "the model") -> np.ndarray:
    """`array` with batch and channel axes of size 1 added where they are missing; its other axes are the model's, in order.

    Args:
        spec: the input.
        array: of any shape.
        of: what `spec` describes, for error messages.

    Raises WrongAxes if no such interpretation fits, if more than one fits, or if the first axis need not be a batch.
    """
    lacking = len(spec.axes) - array.ndim
    optional = [index for index, axis in enumerate(spec.axes) if may_be_missing(axis)]
    if lacking < 0 or lacking > len(optional):
        raise _unclear(spec, array, f"It has {array.ndim} axes, but {of} has {len(spec.axes)}.")
    readings = {
        np.expand_dims(array, missing).shape: missing
        for missing in itertools.combinations(optional, lacking)
        if _fits(spec, np.expand_dims(array, missing).shape)
    }
    if not readings:
        if lacking:
            raise _unclear(
                spec, array, "Batch and channel axes of size 1 may be left out, but the array does not fit then either."
            )
        return array  # `check_sizes` reports which sizes do not fit
    if len(readings) > 1:
        could_be = " or ".join(map(str, sorted(readings)))
        raise _unclear(spec, array, f"It could mean {could_be}: give its axes as `axes`.")
    (missing,) = readings.values()
    batch = spec.batch_axis
    complete = np.expand_dims(array, missing)
    if lacking and batch is not None and batch not in missing and complete.shape[batch] > 1:
        # These may be samples of a model without channels, planes of a stack, or an image whose channels come last.
        raise _unclear(spec, array, f"It could be {complete.shape[batch]} samples, or something else: give its axes as `axes`.")
    return complete


def _unclear(spec: Tensor, array: np.ndarray, problem: str) -> WrongAxes:
    return WrongAxes(spec.id, array.shape, f"{problem} {other_readings(spec, array.shape)}".rstrip())


def _fits(spec: Tensor, shape: Sequence[int]) -> bool:
    return all(fits_channel(axis, size) for axis, size in zip(spec.axes, shape))
