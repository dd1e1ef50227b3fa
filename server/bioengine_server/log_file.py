"""Log files in the run dir, beside which models can make files as well: whatever comes, they stay bounded."""

from __future__ import annotations

import contextlib
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

from bioengine_contract.removal import remove

SERVER_LOG = "server.log"
TRITON_LOG = "triton.log"

SIZE = 10_000_000  # bytes
OLDER = 3


@contextlib.contextmanager
def logged_to(file: Path, formatter: logging.Formatter) -> Iterator[None]:
    """Have all that is logged written to a file as well, where that is possible."""
    handler, root = LogFile(file, formatter), logging.getLogger()
    for other in root.handlers:
        for kept_out in other.filters:
            handler.addFilter(kept_out)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotating file that goes on being written where it cannot be rotated."""

    def __init__(self, file: Path, formatter: logging.Formatter, size: int = SIZE, older: int = OLDER) -> None:
        """
        Args:
            file: the newest of them; older ones are called `<file>.1` and so on.
            formatter: of its lines.
            size: bytes of each.
            older: how many older ones are kept.
        """
        super().__init__(file, encoding="utf-8", maxBytes=size, backupCount=older, delay=True)
        self.setFormatter(formatter)

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
