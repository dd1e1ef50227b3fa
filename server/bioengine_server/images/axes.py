"""From an image's axes to a model's, and back. Only known axes are used; none are guessed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from bioengine_server.images.errors import UnclearAxes, WrongChannels
from bioengine_server.images.image import Image
from bioengine_server.images.model import TensorAxes

# An axis with no more pixels than this is probably a colour axis.
_COLOURS = 4

_WHAT = {"t": "frames", "z": "planes"}

Hint = tuple[str, str]
"""Axes that work for an image, and an explanation of them."""


@dataclass(frozen=True)
class Arranged:
    """An image with the axes of a model.

    `batch`: of each axis of the image that became the batch its letter (empty where it is not known) and its size.
    `names`: what axes of the model are called in the image, where that is something else. `notes`: what a person should know of
    how the axes were taken, in sentences.
    """

    data: np.ndarray
    batch: tuple[tuple[str, int], ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fits(image: Image, axes: str, spec: TensorAxes) -> bool:
    """Whether an image with these axes fits the model, apart from the number of channels."""
    return _fits(image.data.shape, axes.lower(), spec, any_channels=True)


def to_model_axes(image: Image, axes: str | None, spec: TensorAxes, flag: str = "{}") -> Arranged:
    """The image with the axes of a model.

    Args:
        image: as it was read.
        axes: its axes as given by the user, such as "yx" or "zyx", in upper or lower case. Each `b` is an axis along which images
            are run one by one. None: the file's axes, or the model's without batch and channel axes of size 1.
        spec: the model's input.
        flag: how to write axes for this image after --axes, such as '"yx,{}"' for the second of two.

    Raises UnclearAxes, WrongChannels.
    """
    given = axes.lower() if axes else _known(image, spec)
    shape = image.data.shape
    if not _fits(shape, given, spec):
        found = _hint(image, given, spec)
        hint = (flag.replace("{}", found[0], 1), found[1]) if found else None
        if _fits(shape, given, spec, any_channels=True) and spec.channels and "c" in given:
            raise WrongChannels(shape[given.index("c")], spec.channels, given, hint, image.name)
        raise UnclearAxes(shape, given, spec.axes, hint, _may_be_colours(image, given), image.name)
    joined = [index for index, letter in enumerate(given) if letter == "b"]
    data = np.moveaxis(image.data, joined, range(len(joined)))
    letters = [letter for letter in given if letter != "b"]
    data = data.reshape(math.prod(shape[index] for index in joined), *data.shape[len(joined) :])
    kept = [letter for letter in letters if letter in spec.axes]
    data = data.reshape(len(data), *(size for letter, size in zip(letters, data.shape[1:]) if letter in spec.axes))
    if "b" in spec.axes:
        kept = ["b", *kept]
    else:
        data = data[0]
    for letter in spec.axes:
        if letter not in kept:
            data, kept = data[None], [letter, *kept]
    own = image.axes or " " * len(given)
    names = {} if axes else {letter: name for letter, name in zip(given, own) if name not in (letter, " ")}
    return Arranged(
        data.transpose([kept.index(letter) for letter in spec.axes]),
        tuple((own[index].strip(), shape[index]) for index in joined),
        names,
        tuple(
            f"its {_WHAT[name]} ({name}) are taken as the model's {_WHAT[letter]} ({letter})" for letter, name in names.items()
        ),
    )


def from_model_axes(data: np.ndarray, axes: str, arranged: Arranged | None = None) -> tuple[np.ndarray, str]:
    """A model's output without batch and channel axes of size 1, and the axes that remain.

    Args:
        data: the model's output.
        axes: the axes of the output.
        arranged: the input image, whose axis names the output gets again: for example, the batch becomes time for frames.
    """
    names = {} if arranged is None else arranged.names
    letters = [names[letter] if letter in names and names[letter] not in axes else letter for letter in axes]
    if arranged is not None and "b" in letters:
        index = letters.index("b")
        batch = _named_batch(arranged, letters)
        if batch and math.prod(size for _, size in batch) == data.shape[index]:
            data = data.reshape(*data.shape[:index], *(size for _, size in batch), *data.shape[index + 1 :])
            letters[index : index + 1] = [letter for letter, _ in batch]
            dropped = {letter for letter, size in batch if size == 1} | {"c"}
        else:
            dropped = {"b", "c"}
    else:
        dropped = {"b", "c"}
    gone = tuple(index for index, letter in enumerate(letters) if letter in dropped and data.shape[index] == 1)
    return data.squeeze(gone), "".join(letter for index, letter in enumerate(letters) if index not in gone)


def _named_batch(arranged: Arranged, letters: Sequence[str]) -> list[tuple[str, int]]:
    """The axes from which the batch was made, with letters that the output does not use; empty if there are not enough letters.

    Unknown axes become z, as for the pages of a stack in ImageJ.
    """
    taken = {*letters} | {letter for letter, _ in arranged.batch}
    free: Iterator[str] = iter([letter for letter in "zt" if letter not in taken])
    named: list[tuple[str, int]] = []
    for letter, size in arranged.batch:
        is_good = letter in tuple("tzc") and letter not in letters and letter not in {name for name, _ in named}
        named.append((letter if is_good else next(free, ""), size))
    return named if all(letter for letter, _ in named) else []


def _known(image: Image, spec: TensorAxes) -> str:
    """The image's axes if the user gives none: the file's, or the model's if they fit; empty if neither fits."""
    plain = spec.axes.replace("b", "").replace("c", "")
    if image.axes is not None:
        # A file may call z a time axis: if the model has the same axes except for that name, these are used.
        other = image.axes.translate(str.maketrans("tz", "zt"))
        is_named = set(image.axes) <= set(spec.axes)
        return plain if not is_named and other == plain and _fits(image.data.shape, plain, spec) else image.axes
    candidates = [axes for axes in (spec.axes, spec.axes.replace("b", ""), plain) if len(axes) == image.data.ndim]
    return next((axes for axes in candidates if _fits(image.data.shape, axes, spec) and not _has_colours(image, axes)), "")


def _fits(shape: Sequence[int], given: str, spec: TensorAxes, any_channels: bool = False) -> bool:
    """Whether an image with the axes `given` fits the model."""
    sizes = dict(zip(given, shape))
    others = given.replace("b", "")
    return (
        len(given) == len(shape)
        and len(set(others)) == len(others)
        and all(size == 1 for letter, size in zip(given, shape) if letter not in spec.axes)
        and all(letter in given or letter in "bc" for letter in spec.axes)
        and (any_channels or spec.channels in (None, sizes.get("c", 1)))
    )


def _hint(image: Image, given: str, spec: TensorAxes) -> Hint | None:
    """Axes with which the image fits the model, found by trying; None if there are none."""
    shape = image.data.shape
    plain = spec.axes.replace("b", "").replace("c", "")
    known = given if len(given) == len(shape) and set(given) <= set("btzcyx") else image.axes or ""
    foreign = "".join(letter if letter in spec.axes else "b" for letter in known)
    more = len(shape) - len(plain)
    orders = {
        0: [plain],
        1: ["c" + plain, plain + "c", "b" + plain],
        2: ["bc" + plain, "b" + plain + "c", "bb" + plain],
        3: ["bbc" + plain, "bb" + plain + "c", "bbb" + plain],
    }
    for axes in [foreign, foreign.replace("c", "b"), *orders.get(more, [])]:
        if axes != given and axes and _fits(shape, axes, spec) and _keeps_names(image, axes) and not _has_colours(image, axes):
            what = {letter for letter, own in zip(known, axes) if own == "b" and letter != "b"}
            planes = {"c": "channels", "t": "frames"}.get("".join(what), "planes")
            return axes, f", which runs its {planes} one by one" if "b" in axes else ""
    return None


def _keeps_names(image: Image, axes: str) -> bool:
    """Whether the file's axes keep their meaning or are run one by one; channels must not be used as planes."""
    return image.axes is None or all(letter in (name, "b") for letter, name in zip(axes, image.axes))


def _has_colours(image: Image, axes: str) -> bool:
    """Whether axes that do not come from the file would turn a colour image into one that is only a few pixels high or wide."""
    sizes = dict(zip(axes, image.data.shape))
    return image.axes is None and len(axes) > 2 and any(sizes.get(letter, _COLOURS + 1) <= _COLOURS for letter in "yx")


def _may_be_colours(image: Image, given: str) -> bool:
    """Whether the last axis may be a colour axis, although neither file nor user says so."""
    return image.axes is None and "c" not in given and image.data.ndim > 2 and 2 < image.data.shape[-1] <= _COLOURS
