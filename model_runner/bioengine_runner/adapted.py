"""Steps of valid descriptions that bioimageio.core 0.11 does not run as they are, in a form that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bioengine_contract.axes import id_of
from bioimageio.spec.model import v0_4, v0_5


def adapt_steps(description: v0_4.ModelDescr | v0_5.ModelDescr) -> None:
    """Replace each `scale_linear` of format 0.4 that has `axes` by the same step of format 0.5, in place.

    Format 0.4 names the axes that are scaled jointly, format 0.5 the one along which gain and offset have values of their own.

    Raises ValueError for a step that has several values, but no axis for them, or more than one.
    """
    if isinstance(description, v0_4.ModelDescr):
        for input in description.inputs:
            _adapt(input.preprocessing, input.axes, str(input.name))
        for output in description.outputs:
            _adapt(output.postprocessing, output.axes, str(output.name))


def _adapt(steps: list[Any], axes: str, tensor: str) -> None:
    steps[:] = [
        _along_axis(step.kwargs, axes, tensor)
        if isinstance(step, v0_4.ScaleLinearDescr) and step.kwargs.axes is not None
        else step
        for step in steps
    ]


def _along_axis(kwargs: v0_4.ScaleLinearKwargs, axes: str, tensor: str) -> v0_5.ScaleLinearDescr:
    gains, offsets = _values(kwargs.gain), _values(kwargs.offset)
    count = max(len(gains), len(offsets))
    if count == 1:
        return v0_5.ScaleLinearDescr(id="scale_linear", kwargs=v0_5.ScaleLinearKwargs(gain=gains[0], offset=offsets[0]))
    along = [axis for axis in axes if axis != "b" and axis not in str(kwargs.axes)]
    if len(along) != 1 or {len(gains), len(offsets)} - {1, count}:
        raise ValueError(
            f"the step scale_linear of '{tensor}' ({axes}) has {len(gains)} gains and {len(offsets)} offsets, and its axes "
            f"'{kwargs.axes}' leave {len(along)} axes for them; one axis is expected, and as many gains as offsets"
        )
    every = [values * count if len(values) == 1 else values for values in (gains, offsets)]
    along_axis = v0_5.ScaleLinearAlongAxisKwargs(axis=id_of(along[0]), gain=every[0], offset=every[1])  # type: ignore[arg-type]
    return v0_5.ScaleLinearDescr(id="scale_linear", kwargs=along_axis)


def _values(value: float | Sequence[float]) -> list[float]:
    return [float(each) for each in value] if isinstance(value, (list, tuple)) else [float(value)]  # type: ignore[arg-type]
