"""Limit log lines that any client can cause, to keep logs small: each line only once per period, or a few of each kind."""

from __future__ import annotations

import logging
import time

_MAX = 100  # different lines per period
_WHILE = 600.0  # seconds

_FEW = 10  # lines of one kind per minute
_MINUTE = 60.0  # seconds
_MAX_KINDS = 500  # the others count as one kind


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


class Few:
    """Decides whether a line of some kind is written: a few of each kind per minute."""

    def __init__(self) -> None:
        self._written: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._since = time.monotonic()

    def take(self, kind: str) -> int | None:
        """None if a line of this kind is not to be written; otherwise how many were not since the last one that was."""
        if time.monotonic() - self._since > _MINUTE:
            self._written.clear()
            self._since = time.monotonic()
        if kind not in self._left_out and len(self._left_out) >= _MAX_KINDS:
            kind = ""
        self._left_out.setdefault(kind, 0)
        if self._written.get(kind, 0) >= _FEW:
            self._left_out[kind] += 1
            return None
        self._written[kind] = self._written.get(kind, 0) + 1
        left_out, self._left_out[kind] = self._left_out[kind], 0
        return left_out


class OnceFilter(logging.Filter):
    """For loggers of libraries: lines below the level of errors are written only once per period."""

    def __init__(self) -> None:
        super().__init__()
        self._once = Once()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or self._once.allows(record.getMessage())
