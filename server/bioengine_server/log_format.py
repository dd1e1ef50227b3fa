"""The form of the server's log: a line of text or of JSON for each record, whatever strangers have put into it."""

from __future__ import annotations

import copy
import json
import logging
from datetime import UTC, datetime
from typing import Any

from bioengine_server.settings import Settings
from bioengine_server.untrusted import printable

_OURS = "bioengine_server"
_MAX_MESSAGE = 2_000  # characters of a record's message


def formatter(settings: Settings) -> logging.Formatter:
    """The one that BIOENGINE_LOG_FORMAT asks for."""
    if settings.log_format == "json":
        return JsonFormatter(_OURS, settings.debug)
    return LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", _OURS, settings.debug)


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
        record.message = printable(_cut(record.message).strip("\n"))
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        if not self._with_tracebacks and record.name.split(".")[0] != self._ours:
            record = _without_traceback(record)
        first, *traceback = super().format(record).split("\n")
        return "\n".join([first, *("  " + printable(line[:_MAX_MESSAGE]) for line in traceback)])


class JsonFormatter(logging.Formatter):
    """A JSON object on one line for each record: `time` (UTC), `level`, `logger`, `message`, `traceback` where there is one, and
    what a record has as `fields`. All of it is ASCII: nothing in it can begin a line, or be obeyed by a terminal.
    """

    def __init__(self, ours: str, with_tracebacks: bool = False) -> None:
        """As of `LogFormatter`."""
        super().__init__()
        self._ours = ours
        self._with_tracebacks = with_tracebacks

    def format(self, record: logging.LogRecord) -> str:
        if not self._with_tracebacks and record.name.split(".")[0] != self._ours:
            record = _without_traceback(record)
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(record.getMessage().strip("\n")),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = [line[:_MAX_MESSAGE] for line in self.formatException(record.exc_info).splitlines()]
        return json.dumps(entry)


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…"


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
