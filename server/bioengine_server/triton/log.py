"""The log of Triton's output, which models write to as well: whatever they write or put in its place, it stays bounded."""

from __future__ import annotations

import io
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

from bioengine_contract.removal import remove

MAX_LINE = 16_384  # bytes
_AT_ONCE = 65_536  # bytes


def lines(stream: io.BufferedReader) -> Iterator[str]:
    """The lines of a stream, as they come; of one that is too long, its beginning."""
    line = b""
    while chunk := stream.read1(_AT_ONCE):
        *full, line = (line + chunk).split(b"\n")
        yield from map(_text, full)
        line = line[: MAX_LINE + 1]
    if line:
        yield _text(line)


def _text(line: bytes) -> str:
    text = line[:MAX_LINE].decode(errors="replace")
    return text if len(line) <= MAX_LINE else f"{text}… (the rest of this line was dropped)"


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotating file that goes on being written where it cannot be rotated."""

    def doRollover(self) -> None:
        for number in range(1, self.backupCount + 1):
            older = Path(f"{self.baseFilename}.{number}")
            if older.is_symlink() or older.is_dir():
                remove(older)  # models can make folders beside it
        try:
            super().doRollover()
        except OSError:
            # It begins anew: an older one that is lost is better than the latest lines, or than all of the disk.
            if self.stream is not None:
                self.stream.close()
            self.stream = open(self.baseFilename, "w", encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        """A disk that is full is no reason to fill the server's own output."""
