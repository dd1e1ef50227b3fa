"""From an image's axes to a model's, and back: what is known is moved, nothing is guessed."""

from __future__ import annotations

import numpy as np

from bioengine_server.errors import UnclearAxes
from bioengine_server.images.files import Image


def to_model_axes(image: Image, axes: str | None, wanted: str) -> np.ndarray:
    """The image with the axes of a model.

    Args:
        image: as it was read.
        axes: its axes as a person says, such as "yx" or "zyx"; None: as the file says, or as many as the model has, with
            batch and channel axes of size 1 left out.
        wanted: the model's axes, such as "bcyx".

    Raises UnclearAxes.
    """
    data = image.data
    given = axes.lower() if axes else _as_the_file_says(image, wanted)
    if given is None:
        candidates = (wanted, wanted.replace("b", ""), wanted.replace("b", "").replace("c", ""))
        given = next((candidate for candidate in candidates if len(candidate) == data.ndim), "")
    if len(given) != data.ndim or len(set(given)) != len(given):
        raise UnclearAxes(data.shape, given, wanted)
    for index, letter in reversed(list(enumerate(given))):
        if letter not in wanted:
            if data.shape[index] != 1:
                raise UnclearAxes(data.shape, given, wanted)
            data = data.squeeze(index)
    present = [letter for letter in given if letter in wanted]
    if any(letter not in present for letter in wanted if letter not in "bc"):
        raise UnclearAxes(image.data.shape, given, wanted)
    for letter in wanted:
        if letter not in present:
            data, present = data[None], [letter, *present]
    return data.transpose([present.index(letter) for letter in wanted])


def from_model_axes(data: np.ndarray, axes: str) -> tuple[np.ndarray, str]:
    """A model's output without batch and channel axes of size 1, and its axes then."""
    dropped = tuple(index for index, letter in enumerate(axes) if letter in "bc" and data.shape[index] == 1)
    return data.squeeze(dropped), "".join(letter for index, letter in enumerate(axes) if index not in dropped)


def _as_the_file_says(image: Image, wanted: str) -> str | None:
    """The file's axes, unless the model has as many of its own with other names (the file may have called z a time)."""
    axes = image.axes
    if axes is None or set(axes) <= set(wanted):
        return axes
    return None if image.data.ndim == len(wanted.replace("b", "").replace("c", "")) else axes
