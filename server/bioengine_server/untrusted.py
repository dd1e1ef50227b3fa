"""Make text from clients, packages and collections safe for logs, the console and error messages: short, on one line, without
terminal escapes or hidden characters.
"""

from __future__ import annotations

import reprlib

_LIMIT = 100  # characters

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = _LIMIT


def shown(value: object, limit: int = 80) -> str:
    """`value` as one line of at most `limit` printable characters; longer text is cut and ends with `…`."""
    text = str(value)
    safe = printable(text[:limit])
    return safe[: limit - 1] + "…" if len(text) > limit or len(safe) > limit else safe


def quoted(value: object, limit: int = _LIMIT) -> str:
    """`value` as Python would write it (text in quotes), shortened.

    Args:
        value: any value.
        limit: the largest number of characters.
    """
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[: limit + 1]).decode("latin-1")
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    text = printable(_repr.repr(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    """`text` with backslash escapes for all characters that are not printable.

    These are line breaks of all kinds, control characters (which terminals obey), and characters that hide or reorder
    others, such as Unicode's bidirectional controls.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
