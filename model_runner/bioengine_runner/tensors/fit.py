"""From what a client sent to the arrays that a model takes: count, type, axes, dtype, and the sizes that mean something.

Image axes may have any size: the model's process pads and cuts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bioengine_runner.errors import (
    BadRequest,
    BadTile,
    LossyCast,
    Misfit,
    NotAnArray,
    WrongAxes,
    WrongInputCount,
    WrongSize,
    shorten,
)
from bioengine_runner.store.manifest import IMAGE_AXES, Manifest, Tensor
from bioengine_runner.tensors.axes import arranged, axes_of_inputs, letter, letters

_MAX_TILE = 2**31  # pixels along an axis


def fit_inputs(manifest: Manifest, inputs: Any, axes: Any = None) -> list[np.ndarray]:
    """The model's input arrays, one for each input, with the model's axes in order and in the model's dtype.

    Args:
        manifest: the model.
        inputs: a list with one item for each input: an array, or a list of arrays without the batch axis, which the list adds.
        axes: the arrays' axes, such as "yx", one string for all or a list with one for each; None: those of the model, of which
            batch and channel may be missing where their size is 1.

    Raises BadRequest, and the kinds of Misfit, which say what the model takes and show a request that works.
    """
    specs = manifest.inputs
    try:
        if not isinstance(inputs, list):
            raise BadRequest(
                f"`inputs` is a {type(inputs).__name__}. Expected a list with one array for each input of the model."
            )
        if len(inputs) != len(specs):
            raise WrongInputCount([spec.id for spec in specs], len(inputs))
        arrays = [
            _cast(spec, _as_array(spec, item, given))
            for spec, item, given in zip(specs, inputs, axes_of_inputs(axes, len(specs)))
        ]
        check_sizes(specs, [array.shape for array in arrays])
    except Misfit as error:
        raise error.with_help(usage(manifest)) from None
    return arrays


def check_shapes(manifest: Manifest, shapes: Sequence[Sequence[int]]) -> None:
    """Every shape against its input's axes, as for `fit_inputs`. Raises WrongAxes, WrongSize, NotAnArray."""
    try:
        for spec, shape in zip(manifest.inputs, shapes):
            if len(shape) != len(spec.axes):
                raise WrongAxes(spec.id, shape, f"It has {len(shape)} axes, the model {len(spec.axes)}.")
            if 0 in shape:
                raise NotAnArray(spec.id, f"an empty array of shape {tuple(shape)}")
        check_sizes(manifest.inputs, shapes)
    except Misfit as error:
        raise error.with_help(usage(manifest)) from None


def check_sizes(specs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> None:
    """The sizes that cannot be padded or cut: channels, and what has to go with another input. Raises WrongSize."""
    sizes = {(spec.id, axis.id): size for spec, shape in zip(specs, shapes) for axis, size in zip(spec.axes, shape)}
    batches = {size for spec, shape in zip(specs, shapes) for axis, size in zip(spec.axes, shape) if axis.type == "batch"}
    for spec, shape in zip(specs, shapes):
        problems = []
        for axis, size in zip(spec.axes, shape):
            if axis.reference is not None:
                reference = axis.reference
                wanted = int(sizes.get((reference.tensor, reference.axis), 0) * reference.scale) + reference.offset
                if size != wanted:
                    problems.append(f"{axis.id} is {size}, it must be {wanted} to go with '{reference.tensor}'")
            elif axis.type == "batch":
                if len(batches) > 1:
                    problems.append(f"{axis.id} is {size}, it must be the same for all inputs")
            elif axis.type not in IMAGE_AXES and (
                size < axis.min or (size - axis.min) % axis.step if axis.step else size != axis.min
            ):
                problems.append(f"{axis.id} is {size}, it must be {axis.describe().split(': ')[1]}")
        if problems:
            raise WrongSize(spec.id, shape, problems)


def fit_tile(manifest: Manifest, tile: Any) -> dict[str, int] | None:
    """The request's `tile` as sizes by axis: a number is for each image axis. Raises BadTile."""
    if tile is None:
        return None
    axes = {axis.id: letter(axis) for spec in manifest.inputs for axis in spec.axes if axis.type in IMAGE_AXES}
    if type(tile) is int:
        tile = dict.fromkeys(axes, tile)
    names: dict[Any, str] = {short: id for id, short in axes.items()}
    if not isinstance(tile, dict) or not all(
        isinstance(name, str) and (name in axes or name in names) and type(size) is int and 0 < size <= _MAX_TILE
        for name, size in tile.items()
    ):
        raise BadTile(shorten(tile), list(axes)).with_help(usage(manifest))
    return {str(names.get(name, name)): size for name, size in tile.items()}


def usage(manifest: Manifest) -> str:
    """What the model takes, and a request that works."""
    takes = "; ".join(f"'{spec.id}': {spec.dtype}, axes {letters(spec)} ({spec.describe_axes()})" for spec in manifest.inputs)
    sizes: dict[tuple[str, str], int] = {}
    for spec in manifest.inputs:
        for axis in spec.axes:
            reference = axis.reference
            sizes[spec.id, axis.id] = (
                axis.min
                if reference is None
                else int(sizes.get((reference.tensor, reference.axis), 1) * reference.scale) + reference.offset
            )
    arrays = ", ".join(
        f"np.zeros({tuple(sizes[spec.id, axis.id] for axis in spec.axes)}, {spec.dtype!r})" for spec in manifest.inputs
    )
    return (
        f"The model takes {takes}. Batches and image axes may have any size; give `axes` where yours are others. "
        f'This works: inputs=[{{"model_id": "{manifest.id}", "inputs": [{arrays}]}}].'
    )


def _as_array(spec: Tensor, item: Any, axes: str | None) -> np.ndarray:
    if isinstance(item, list) and item and all(isinstance(part, np.ndarray) for part in item):
        return _stack(spec, item, axes)
    if not isinstance(item, np.ndarray):
        what = "missing (None)" if item is None else f"a {type(item).__name__}, {shorten(item, 40)}"
        raise NotAnArray(spec.id, what)
    return arranged(spec, _numbers(spec, item), axes)


def _numbers(spec: Tensor, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise NotAnArray(spec.id, f"an array of {array.dtype.name}")
    if array.size == 0:
        raise NotAnArray(spec.id, f"an empty array of shape {array.shape}")
    return array


def _stack(spec: Tensor, parts: list[np.ndarray], axes: str | None) -> np.ndarray:
    """The samples of a list, joined along the batch axis."""
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1:
        raise NotAnArray(spec.id, f"a list of arrays of different shapes ({', '.join(map(str, shapes))})")
    batch_axis = spec.batch_axis
    if batch_axis is None:
        raise WrongAxes(spec.id, (len(parts), *shapes[0]), "A list of arrays adds the batch axis, and the model has none.")
    if axes is None and parts[0].ndim == len(spec.axes):
        raise WrongAxes(
            spec.id,
            (len(parts), *shapes[0]),
            "A list of arrays adds the batch axis, so each array has the other axes only; an array is sent without the list.",
        )
    samples = [arranged(spec, _numbers(spec, part), axes) for part in parts]
    if any(sample.shape[batch_axis] != 1 for sample in samples):
        raise WrongAxes(spec.id, (len(parts), *shapes[0]), "A list of arrays adds the batch axis, so each array is one sample.")
    return np.concatenate(samples, axis=batch_axis)


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
