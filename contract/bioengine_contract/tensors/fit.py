"""Turn what a client sent into the arrays that a model takes: their number, type, axes, dtype, and sizes with a meaning.

Image axes may have any size: the model's process pads the image or cuts it into tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from bioengine_contract.axes import BATCH, IMAGE_AXES
from bioengine_contract.errors import BadRequest, shorten
from bioengine_contract.manifest import Manifest, Tensor
from bioengine_contract.tensors.arrange import arranged, axes_of_inputs, completed
from bioengine_contract.tensors.cast import cast
from bioengine_contract.tensors.errors import BadOutputs, BadTile, Misfit, NotAnArray, WrongAxes, WrongInputCount, WrongSize
from bioengine_contract.tensors.hints import letter, letters, other_readings

_MAX_TILE = 2**31  # pixels along an axis


def fit_inputs(manifest: Manifest, inputs: Any, axes: Any = None, warnings: list[str] | None = None) -> list[np.ndarray | None]:
    """The model's input arrays, one for each input, with the model's axes in order and in the model's dtype.

    Args:
        manifest: the model.
        inputs: a list with one item for each input: an array, or a list of arrays without the batch axis, which the list adds.
            None stands for an optional input that is left out; at the end of the list it may be missing.
        axes: the arrays' axes, such as "yx": one string for all inputs or a list with one for each. None: the arrays have the
            model's axes, of which batch and channel may be missing if their size is 1.
        warnings: a sentence is appended for each input whose values were rounded.

    Returns None for an optional input that was left out.

    Raises BadRequest, or a subclass of Misfit whose message says what the model takes and shows a request that works.
    """
    specs, said = manifest.inputs, [] if warnings is None else warnings
    try:
        if not isinstance(inputs, list):
            raise BadRequest(
                f"`inputs` is a {type(inputs).__name__}. Expected a list with one array for each input of the model."
            )
        if len(inputs) > len(specs) or not all(spec.optional for spec in specs[len(inputs) :]):
            raise WrongInputCount([spec.id + " (optional)" * spec.optional for spec in specs], len(inputs))
        given = [*inputs, *[None] * (len(specs) - len(inputs))]
        if all(item is None for item in given):
            raise NotAnArray(specs[0].id, "missing (None), and so are all others")
        orders = axes_of_inputs(axes, len(specs), len(inputs))
        arrays = [
            None if item is None and spec.optional else cast(spec, _as_array(spec, item, order), said)
            for spec, item, order in zip(specs, given, orders)
        ]
        as_sent = {
            spec.id: (spec, item.shape) if isinstance(item, np.ndarray) else (spec.sample, item[0].shape)
            for spec, item, order in zip(specs, given, orders)
            if order is None and item is not None and (isinstance(item, list) or item.ndim == len(spec.axes))
        }
        check_sizes(specs, [None if array is None else array.shape for array in arrays], as_sent)
    except Misfit as error:
        raise error.with_help(usage(manifest)) from None
    return arrays


def check_shapes(manifest: Manifest, shapes: Sequence[Sequence[int] | None]) -> None:
    """Check every shape against the axes of its input, as `fit_inputs` does. Raises WrongAxes, WrongSize, NotAnArray."""
    try:
        for spec, shape in zip(manifest.inputs, shapes):
            if shape is None:
                if not spec.optional:
                    raise NotAnArray(spec.id, "missing")
                continue
            if len(shape) != len(spec.axes):
                raise WrongAxes(spec.id, shape, f"It has {len(shape)} axes, but the model has {len(spec.axes)}.")
            if 0 in shape:
                raise NotAnArray(spec.id, f"an empty array of shape {tuple(shape)}")
        check_sizes(manifest.inputs, shapes)
    except Misfit as error:
        raise error.with_help(usage(manifest)) from None


def check_sizes(
    specs: Sequence[Tensor],
    shapes: Sequence[Sequence[int] | None],
    as_sent: Mapping[str, tuple[Tensor, Sequence[int]]] = MappingProxyType({}),
) -> None:
    """Check the sizes that cannot be padded or cut: channels, and sizes that depend on another input. Raises WrongSize.

    Args:
        specs, shapes: of each input; None instead of a shape for an optional input that was left out.
        as_sent: the inputs whose axes the client did not give, so that the array's axes may be others: the tensor that the array
            was taken for, and its shape; for a list of arrays, those of one sample.
    """
    given = [(spec, shape) for spec, shape in zip(specs, shapes) if shape is not None]
    sizes = {(spec.id, axis.id): size for spec, shape in given for axis, size in zip(spec.axes, shape)}
    batches = {size for spec, shape in given for axis, size in zip(spec.axes, shape) if axis.type == BATCH}
    for spec, shape in given:
        problems, advice = [], ""
        for axis, size in zip(spec.axes, shape):
            if axis.reference is not None:
                reference = axis.reference
                if (reference.tensor, reference.axis) not in sizes:
                    continue  # it depends on an optional input that was left out
                wanted = reference.of(sizes[reference.tensor, reference.axis])
                if size != wanted:
                    problems.append(f"{axis.id} is {size}, it must be {wanted} to match '{reference.tensor}'")
            elif axis.type == BATCH:
                if len(batches) > 1:
                    problems.append(f"{axis.id} is {size}, it must be the same for all inputs")
            elif axis.type not in IMAGE_AXES and (
                size < axis.min or (size - axis.min) % axis.step if axis.step else size != axis.min
            ):
                problems.append(f"{axis.id} is {size}, it must be {axis.describe().split(': ')[1]}")
                advice = other_readings(*as_sent[spec.id]) if spec.id in as_sent else ""
        if problems:
            raise WrongSize(spec.id, shape, problems, advice)


def fit_tile(manifest: Manifest, tile: Any) -> dict[str, int] | None:
    """The request's `tile` as a size for each axis; a single number stands for all image axes. Raises BadTile."""
    if tile is None:
        return None
    axes = {axis.id: letter(axis) for spec in manifest.inputs for axis in spec.axes if axis.type in IMAGE_AXES}
    if type(tile) is int:
        tile = dict.fromkeys(axes, tile)
    names: dict[Any, str] = {short: id for id, short in axes.items()}
    if isinstance(tile, dict):
        tile = {name.lower() if isinstance(name, str) else name: size for name, size in tile.items()}
    if not isinstance(tile, dict) or not all(
        isinstance(name, str) and (name in axes or name in names) and type(size) is int and 0 < size <= _MAX_TILE
        for name, size in tile.items()
    ):
        raise BadTile(shorten(tile), list(axes)).with_help(usage(manifest))
    return {str(names.get(name, name)): size for name, size in tile.items()}


def fit_outputs(manifest: Manifest, outputs: Any) -> list[str]:
    """The names in the request's `outputs`, in the model's order; all if there are none. Raises BadOutputs."""
    names = [spec.id for spec in manifest.outputs]
    if outputs is None:
        return names
    wanted = [outputs] if isinstance(outputs, str) else outputs
    if not isinstance(wanted, list) or not wanted or any(item not in names or wanted.count(item) > 1 for item in wanted):
        raise BadOutputs(shorten(outputs), names)
    return [name for name in names if name in wanted]


def usage(manifest: Manifest) -> str:
    """Help for error messages: what the model takes, and a request that works."""
    takes = "; ".join(
        f"'{spec.id}'{' (optional)' * spec.optional}: {spec.dtype}, axes {letters(spec)} ({spec.describe_axes()})"
        for spec in manifest.inputs
    )
    left_out = " None stands for an optional input that is left out." * any(spec.optional for spec in manifest.inputs)
    sizes: dict[tuple[str, str], int] = {}
    for spec in manifest.inputs:
        for axis in spec.axes:
            reference = axis.reference
            sizes[spec.id, axis.id] = (
                axis.min if reference is None else reference.of(sizes.get((reference.tensor, reference.axis), 1))
            )
    arrays = ", ".join(
        f"np.zeros({tuple(sizes[spec.id, axis.id] for axis in spec.axes)}, {spec.dtype!r})" for spec in manifest.inputs
    )
    return (
        f"The model takes {takes}. Batches and image axes may have any size; give `axes` if yours are different. "
        f'This works: inputs=[{{"model_id": "{manifest.id}", "inputs": [{arrays}]}}].' + left_out
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
    """Join a list of samples along the batch axis."""
    shapes = sorted({part.shape for part in parts})
    if len(shapes) > 1:
        raise NotAnArray(spec.id, f"a list of arrays of different shapes ({', '.join(map(str, shapes))})")
    batch_axis, ndim = spec.batch_axis, parts[0].ndim
    if batch_axis is None:
        raise WrongAxes(
            spec.id,
            (len(parts), *shapes[0]),
            "A list of arrays adds a batch axis, but the model has none: send one array in each request, without a list.",
        )
    if axes is None and ndim == len(spec.axes):
        raise WrongAxes(
            spec.id,
            (len(parts), *shapes[0]),
            "A list of arrays adds the batch axis, so each array must come without it; send a single array without a list.",
        )
    if axes is not None and "b" in axes and len(axes) == ndim + 1:
        axes = axes.replace("b", "")  # the list itself makes the batch axis
    if axes is not None and "b" in axes:
        samples = [arranged(spec, _numbers(spec, part), axes) for part in parts]
        if any(sample.shape[batch_axis] != 1 for sample in samples):
            raise WrongAxes(
                spec.id, (len(parts), *shapes[0]), "A list of arrays adds the batch axis, so each array must be one sample."
            )
        return np.concatenate(samples, axis=batch_axis)
    # The samples of a list have no batch axis, so no other axis may be taken for it.
    of = "a sample of the model"
    sample = spec.sample
    numbers = (_numbers(spec, part) for part in parts)
    return np.stack(
        [completed(sample, part, of) if axes is None else arranged(sample, part, axes) for part in numbers], axis=batch_axis
    )
