"""Text that clients, packages and collections choose, made safe to log, to print and to put into messages: short, on one line,
without terminal escapes or hidden characters.
"""

from __future__ import annotations

import logging
import reprlib

_LIMIT = 100  # characters
_LONGEST_MESSAGE = 2_000  # characters of a log record's message

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = _LIMIT


def shown(value: object, limit: int = 80) -> str:
    """`value` as one line of printable characters, at most `limit` of them; what is too long ends with `…`."""
    text = str(value)
    safe = printable(text[:limit])
    return safe[: limit - 1] + "…" if len(text) > limit or len(safe) > limit else safe


def quoted(value: object, limit: int = _LIMIT) -> str:
    """`value` as Python would write it, with quotes where it is text, shortened.

    Args:
        value: as it came.
        limit: characters that are shown of it.
    """
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value[: limit + 1]).decode("latin-1")
    if isinstance(value, str):
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    text = printable(_repr.repr(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    """`text` with whatever is not printable as a backslash escape.

    These are line breaks of all kinds, control characters (terminals obey them), and characters that hide or reorder
    others, such as Unicode's bidirectional controls.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class LogFormatter(logging.Formatter):
    """One line for each record, whatever its arguments hold; the lines of a traceback follow, indented.

    Nothing that a client names can begin a line, so no record can be forged.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = record.message
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "…"
        record.message = printable(message.strip("\n"))
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        first, *traceback = super().format(record).split("\n")
        return "\n".join([first, *("  " + printable(line[:_LONGEST_MESSAGE]) for line in traceback)])
