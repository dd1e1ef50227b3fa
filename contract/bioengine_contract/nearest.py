"""Names that nobody knows, refused with the one that was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 60  # characters

# What people call it, where another word is near by its letters, or none.
_SYNONYMS = dict.fromkeys(("array", "arrays", "data", "image", "images"), "inputs")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of the names that are known is meant by one that is not: spelt nearly so, or with it among its words."""
    known, word = list(known), name[:_SHOWN].lower()
    near = [_SYNONYMS[word]] if _SYNONYMS.get(word) in known else get_close_matches(word, known, 1)
    return next((candidate for candidate in (*near, *known) if candidate in near or word in candidate.split("_")), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to follow an error's sentence, such as " Did you mean 'axes'?"; nothing where no name is near."""
    found = nearest(name, known)
    return "" if found is None else f" Did you mean {found!r}?"
