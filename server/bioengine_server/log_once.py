"""Log lines that strangers can cause: each is written once in a while, so that no log is filled."""

from __future__ import annotations

import logging
import time

_MAX = 100  # different lines in a while
_WHILE = 600.0  # seconds


class Once:
    """Says whether a line is to be written."""

    def __init__(self) -> None:
        self._written: set[str] = set()
        self._since = time.monotonic()

    def allows(self, line: str) -> bool:
        """Whether this line was not written lately, and there is room for it."""
        if time.monotonic() - self._since > _WHILE:
            self._written.clear()
            self._since = time.monotonic()
        if line in self._written or len(self._written) >= _MAX:
            return False
        self._written.add(line)
        return True


class OnceFilter(logging.Filter):
    """For loggers that are not ours: their lines below an error are written once in a while."""

    def __init__(self) -> None:
        super().__init__()
        self._once = Once()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or self._once.allows(record.getMessage())
