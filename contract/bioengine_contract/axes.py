"""The axes of images: their types, and the letters that format 0.4 and people have for them ("bcyx")."""

from __future__ import annotations

BATCH, CHANNEL, TIME, INDEX, SPACE = "batch", "channel", "time", "index", "space"

IMAGE_AXES = (SPACE, TIME)
"""Types of axes that can be padded and cut; of the others, each size means something."""

LETTERS = {BATCH: "b", CHANNEL: "c", TIME: "t", INDEX: "i"}
"""Of the types that a model has at most one axis of, which are then called by the type."""

_TYPES = {letter: type for type, letter in LETTERS.items()}


def letter_of(type: str, id: str) -> str:
    """An axis in a string such as "bcyx"."""
    return LETTERS.get(type, id[-1])


def type_of(letter: str) -> str:
    """The type of an axis that format 0.4 calls by a letter."""
    return _TYPES.get(letter, SPACE)


def id_of(letter: str) -> str:
    """What format 0.5 calls an axis that format 0.4 calls by a letter."""
    return _TYPES.get(letter, letter)
