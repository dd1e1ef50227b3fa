"""Hints for error messages about a shape that does not fit: values of `axes` with which the model would accept the array.

They are suggestions to people; a request is never changed by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bioengine_contract.axes import BATCH, CHANNEL, letter_of
from bioengine_contract.manifest import Axis, Tensor

# An axis with no more pixels than this is probably a colour axis.
_COLOURS = 4

_ONE_BY_ONE = "planes of a stack or a movie, each run separately"


def letter(axis: Axis) -> str:
    """The letter of an axis in a string such as "bcyx"."""
    return letter_of(axis.type, axis.id)


def letters(spec: Tensor) -> str:
    return "".join(letter(axis) for axis in spec.axes)


def may_be_missing(axis: Axis) -> bool:
    return axis.type == BATCH or (axis.type == CHANNEL and axis.min == 1 and axis.step == 0)


def fits_channel(axis: Axis, size: int) -> bool:
    return axis.type != CHANNEL or bool(axis.step) or axis.reference is not None or size == axis.min


def other_readings(spec: Tensor, shape: Sequence[int]) -> str:
    """Suggest axes that an array of this shape could have: a sentence for each, at most two; empty if there are none."""
    known, found = letters(spec), []
    for body in _samples(spec):
        if _is_taken(spec, body, shape) and body != known:
            found.append(f'Give axes="{body}" if these are its axes.')
        if "b" in known and _is_taken(spec, f"b{body}", shape) and f"b{body}" != known:
            found.append(f'Give axes="b{body}" for {_ONE_BY_ONE}.')
    if not found and "b" in known:
        found = [_merged(body, len(shape) - len(body)) for body in _samples(spec) if _is_taken(spec, body, shape[-len(body) :])]
        found = [sentence for sentence in found if sentence]
    if not found and shape and 2 < shape[-1] <= _COLOURS:
        # A colour image for a model with one channel.
        for body in _samples(spec):
            if "c" not in body and _is_taken(spec, body, shape[:-1]):
                found = [f'Convert a colour image to grey first: image[..., :3].mean(-1), with axes="{body}".']
    return " ".join(found[:2])


def run_one_by_one(spec: Tensor, shape: Sequence[int], axes: str, foreign: str) -> str:
    """Suggest how to send an array with several planes along `foreign`, an axis that the model does not have."""
    known = letters(spec)
    several = [name for name, size in zip(axes, shape) if name not in known and size > 1]
    if "b" in known and "b" not in axes and several == [foreign]:
        as_batch = axes.replace(foreign, "b")
        if _is_complete(spec, dict(zip(as_batch, shape))):
            return f'Give axes="{as_batch}" to run them one by one.'
    merged = [name for name in axes if name in several or name == "b"]
    rest = axes[len(merged) :]
    if "b" in known and list(axes[: len(merged)]) == merged and _is_complete(spec, dict(zip(rest, shape[len(merged) :]))):
        return _merged(rest, len(merged))
    return "Send one of them at a time."


def _merged(body: str, count: int) -> str:
    """Suggest to merge the first `count` axes into one batch axis."""
    if count < 2:
        return ""
    return f'Send image.reshape(-1, *image.shape[{count}:]) with axes="b{body}" for {_ONE_BY_ONE}.'


def _samples(spec: Tensor) -> Iterator[str]:
    """The axes of a sample in the usual orders: the model's order, channels first, channels last, without channels."""
    own = letters(spec).replace("b", "")
    rest = own.replace("c", "")
    has_channel = own != rest
    optional = any(axis.type == CHANNEL and may_be_missing(axis) for axis in spec.axes)
    yield from dict.fromkeys([own, *([f"c{rest}", f"{rest}c"] if has_channel else []), *([rest] if optional else [])])


def _is_taken(spec: Tensor, axes: str, shape: Sequence[int]) -> bool:
    """Whether the model takes arrays of this shape with these axes, and y and x are too long to be colours."""
    sizes = dict(zip(axes, shape))
    return (
        len(axes) == len(shape)
        and _is_complete(spec, sizes)
        and all(size > _COLOURS for name, size in sizes.items() if name in "yx")
    )


def _is_complete(spec: Tensor, sizes: Mapping[str, int]) -> bool:
    known = letters(spec)
    return all(name in known or size == 1 for name, size in sizes.items()) and all(
        fits_channel(axis, sizes[letter(axis)]) if letter(axis) in sizes else may_be_missing(axis) for axis in spec.axes
    )
