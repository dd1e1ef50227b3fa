"""The logs in a run dir, for `bioengine logs`: their last lines, and what is written to them from then on."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bioengine_server.untrusted import printable

_BLOCK = 65_536  # bytes


class LogReader:
    """One log file, which is rotated under our eyes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._stream: io.BufferedReader | None = None
        self._rest = b""

    def last(self, number: int) -> list[str]:
        """Its last lines; what follows them comes from `new`. None of a file that is not there yet."""
        self._open()
        if self._stream is None:
            return []
        position = self._stream.seek(0, os.SEEK_END)
        content = b""
        while position > 0 and content.count(b"\n") <= number:
            start = max(0, position - _BLOCK)
            self._stream.seek(start)
            content = self._stream.read(position - start) + content
            position = start
        self._stream.seek(0, os.SEEK_END)
        return [_shown(line) for line in content.splitlines()[-number:]] if number else []

    def new(self) -> list[str]:
        """The lines that were written since the last call."""
        lines = self._read()
        if self._is_replaced():
            if self._stream is not None:
                self._stream.close()
                self._stream = None
            self._open()
            lines += self._read()
        return lines

    def _read(self) -> list[str]:
        if self._stream is None:
            return []
        *lines, self._rest = (self._rest + self._stream.read()).split(b"\n")
        return [_shown(line) for line in lines]

    def _open(self) -> None:
        if self._stream is None and self.file.is_file():
            self._stream, self._rest = self.file.open("rb"), b""

    def _is_replaced(self) -> bool:
        """Whether another file has the name, or it was begun anew."""
        try:
            found = self.file.stat()
        except OSError:
            return False
        if self._stream is None:
            return True
        ours = os.fstat(self._stream.fileno())
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino) or found.st_size < self._stream.tell()


def with_headings(readers: Sequence[LogReader], lines: Iterator[tuple[LogReader, str]]) -> Iterator[str]:
    """Lines of several files, with the file's path before those of another one, as `tail` does it."""
    current: LogReader | None = None
    for reader, line in lines:
        if reader is not current and len(readers) > 1:
            yield f"{'' if current is None else chr(10)}==> {reader.file} <=="
        current = reader
        yield line


def _shown(line: bytes) -> str:
    """Models write to Triton's log what they like, such as what terminals obey."""
    return printable(line.decode(errors="replace").replace("\t", "    "))
