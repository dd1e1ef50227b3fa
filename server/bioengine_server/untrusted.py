"""Text that clients, packages and collections choose, made safe to log, to print and to put into messages."""

from __future__ import annotations


def shown(value: object, limit: int = 80) -> str:
    """`value` as one line of printable characters, at most `limit` of them.

    Control characters, terminal escapes, line breaks and the marks that reverse the direction of text become `\\x1b`, `\\n` and
    the like, so that nothing can forge a line of a log or change what a terminal shows. What is too long ends with `…`.
    """
    text = str(value)
    is_long = len(text) > limit
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return safe[: limit - 1] + "…" if is_long or len(safe) > limit else safe
