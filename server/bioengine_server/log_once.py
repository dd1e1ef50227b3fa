"""Limit log lines that any client can cause: each line is written only once per period, to keep logs small."""

from __future__ import annotations

import logging
import time

_MAX = 100  # different lines per period
_WHILE = 600.0  # seconds


class Once:
    """Decides whether a line is written."""

    def __init__(self) -> None:
        self._written: set[str] = set()
        self._since = time.monotonic()

    def allows(self, line: str) -> bool:
        """Whether this line was not written in the present period, and fewer than the largest number of lines were."""
        if time.monotonic() - self._since > _WHILE:
            self._written.clear()
            self._since = time.monotonic()
        if line in self._written or len(self._written) >= _MAX:
            return False
        self._written.add(line)
        return True


class OnceFilter(logging.Filter):
    """For loggers of libraries: lines below the level of errors are written only once per period."""

    def __init__(self) -> None:
        super().__init__()
        self._once = Once()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or self._once.allows(record.getMessage())
