"""From the axes that an array has to those of the model, in the model's order. Nothing is guessed by sizes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bioengine_runner.errors import BadAxes, WrongAxes, shorten
from bioengine_runner.store.manifest import Axis, Tensor

_LETTERS = {"batch": "b", "channel": "c", "time": "t", "index": "i"}


def letter(axis: Axis) -> str:
    """The axis in a string such as "bcyx"."""
    return _LETTERS.get(axis.type, axis.id[-1])


def letters(spec: Tensor) -> str:
    return "".join(letter(axis) for axis in spec.axes)


def axes_of_inputs(axes: Any, count: int) -> list[str | None]:
    """The request's `axes` for each input: None where nothing is said. Raises BadAxes."""
    if axes is None or isinstance(axes, str):
        return [axes] * count
    if not isinstance(axes, list) or len(axes) != count or not all(item is None or isinstance(item, str) for item in axes):
        raise BadAxes(f"`axes` is {shorten(axes)}. Expected a string such as 'yx', or a list with one for each input.")
    return list(axes)


def arranged(spec: Tensor, array: np.ndarray, axes: str | None) -> np.ndarray:
    """`array` with the model's axes, in the model's order.

    Args:
        spec: the input.
        array: with the axes that `axes` says.
        axes: such as "yxc"; a letter for each axis of the array. None: see `completed`.

    Raises BadAxes, WrongAxes.
    """
    if axes is None:
        return completed(spec, array)
    known, given = letters(spec), axes
    if len(given) != array.ndim:
        raise BadAxes(f"Input '{spec.id}' has the shape {array.shape}, and axes {given!r} are {len(given)}.")
    if len(set(given)) != len(given):
        raise BadAxes(f"Of the axes {given!r} of input '{spec.id}', one is there twice.")
    for name, size in zip(given, array.shape):
        if name not in known and size != 1:
            raise BadAxes(
                f"Input '{spec.id}' has {size} along {name!r}, an axis that the model does not have. Send one at a time"
                + (", or call that axis 'b'." if "b" in known and "b" not in given else ".")
            )
    kept = array.reshape([size for name, size in zip(given, array.shape) if name in known])
    order = [name for name in given if name in known]
    for axis in spec.axes:
        if letter(axis) not in order and not _may_be_missing(axis):
            raise BadAxes(f"Input '{spec.id}' has the axes {given!r}, without {axis.describe()}.")
    present = [name for name in known if name in order]
    moved = kept.transpose([order.index(name) for name in present])
    return moved[tuple(slice(None) if name in order else None for name in known)]


def completed(spec: Tensor, array: np.ndarray) -> np.ndarray:
    """`array`, which has the model's axes in order, perhaps without those for batch or channel that have a size of 1.

    Raises WrongAxes where no such reading fits, or more than one, or it makes a batch of what may be none.
    """
    lacking = len(spec.axes) - array.ndim
    optional = [index for index, axis in enumerate(spec.axes) if _may_be_missing(axis)]
    if lacking < 0 or lacking > len(optional):
        raise WrongAxes(spec.id, array.shape, f"It has {array.ndim} axes, the model {len(spec.axes)}.")
    readings = {
        np.expand_dims(array, missing).shape: missing
        for missing in itertools.combinations(optional, lacking)
        if _fits(spec, np.expand_dims(array, missing).shape)
    }
    if not readings:
        if lacking:
            raise WrongAxes(
                spec.id, array.shape, "Batch and channel may be left out where their size is 1; no such reading fits."
            )
        return array  # what does not fit about its sizes is said where they are checked
    if len(readings) > 1:
        raise WrongAxes(
            spec.id, array.shape, f"It could mean {' or '.join(map(str, sorted(readings)))}: say which axes it has, by `axes`."
        )
    (missing,) = readings.values()
    batch = spec.batch_axis
    if lacking and batch is not None and batch not in missing and array.shape[batch] > 1:
        # Samples of a model without channels, or planes, or an image whose channels come last.
        raise WrongAxes(
            spec.id, array.shape, f"It could be {array.shape[batch]} samples, or not: say which axes it has, by `axes`."
        )
    return np.expand_dims(array, missing)


def _may_be_missing(axis: Axis) -> bool:
    return axis.type == "batch" or (axis.type == "channel" and axis.min == 1 and axis.step == 0)


def _fits(spec: Tensor, shape: Sequence[int]) -> bool:
    return all(axis.type != "channel" or axis.step or axis.reference or size == axis.min for axis, size in zip(spec.axes, shape))
