"""Find the known name that an unknown name was probably meant to be, for error messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 60  # characters

# Common words for a name whose letters are not similar to it.
_SYNONYMS = dict.fromkeys(("array", "arrays", "data", "image", "images"), "inputs")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown name probably means: one with a similar spelling, or one that is among its words."""
    known, word = list(known), name[:_SHOWN].lower()
    near = [_SYNONYMS[word]] if _SYNONYMS.get(word) in known else get_close_matches(word, known, 1)
    return next((candidate for candidate in (*near, *known) if candidate in near or word in candidate.split("_")), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question to append to an error message, such as " Did you mean 'axes'?"; empty if no known name is similar."""
    found = nearest(name, known)
    return "" if found is None else f" Did you mean {found!r}?"
