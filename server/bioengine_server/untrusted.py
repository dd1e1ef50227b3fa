"""Make text from clients, packages and collections safe for logs, the console and error messages: short, on one line, without
terminal escapes or hidden characters.
"""

from __future__ import annotations

import copy
import logging
import reprlib

_LIMIT = 100  # characters
_MAX_MESSAGE = 2_000  # characters of a log record's message

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


class LogFormatter(logging.Formatter):
    """Writes one line for each record, whatever its arguments contain; the lines of a traceback follow, indented.

    Text from a client can never begin a line, so clients cannot forge records. For exceptions in libraries, such as Hypha's about
    disconnected clients, only one line is written by default, because their tracebacks do not help an admin.
    """

    def __init__(self, format: str, ours: str, with_tracebacks: bool = False) -> None:
        """
        Args:
            format: as for `logging.Formatter`.
            ours: the name of the server's own loggers.
            with_tracebacks: whether to write tracebacks of libraries too.
        """
        super().__init__(format)
        self._ours = ours
        self._with_tracebacks = with_tracebacks

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = record.message
        if len(message) > _MAX_MESSAGE:
            message = message[:_MAX_MESSAGE] + "…"
        record.message = printable(message.strip("\n"))
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        if not self._with_tracebacks and record.name.split(".")[0] != self._ours:
            record = _without_traceback(record)
        first, *traceback = super().format(record).split("\n")
        return "\n".join([first, *("  " + printable(line[:_MAX_MESSAGE]) for line in traceback)])


def _without_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """The record with the exception's message instead of its traceback, which Hypha also writes into its messages."""
    short = copy.copy(record)
    message, short.args = record.getMessage(), ()
    if "Traceback (most recent call last)" in message:
        lines = [line for line in message.splitlines() if line.strip()]
        message = f"{lines[0]} ({lines[-1].strip()})"
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        message += f" ({type(error).__name__}: {' '.join(str(error).splitlines()[:1])})"
    short.msg, short.exc_info, short.exc_text, short.stack_info = message, None, None, None
    return short
