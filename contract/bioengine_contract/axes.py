"""The axes of images: their types, and the letters that format 0.4 and the option `axes` use for them ("bcyx")."""

from __future__ import annotations

BATCH, CHANNEL, TIME, INDEX, SPACE = "batch", "channel", "time", "index", "space"

IMAGE_AXES = (SPACE, TIME)
"""Types of axes that can be padded and cut into tiles. The size of any other axis has a meaning, such as a number of channels."""

LETTERS = {BATCH: "b", CHANNEL: "c", TIME: "t", INDEX: "i"}
"""Types of which a model has at most one axis. Such an axis has the name of its type as its id."""

_TYPES = {letter: type for type, letter in LETTERS.items()}


def letter_of(type: str, id: str) -> str:
    """The letter of an axis in a string such as "bcyx"."""
    return LETTERS.get(type, id[-1])


def type_of(letter: str) -> str:
    """The type of an axis that format 0.4 calls by a letter."""
    return _TYPES.get(letter, SPACE)


def id_of(letter: str) -> str:
    """The id in format 0.5 of an axis that format 0.4 calls by a letter."""
    return _TYPES.get(letter, letter)
