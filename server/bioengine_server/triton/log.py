"""Triton's output, which models write to as well, as lines of its log (`log_file`)."""

from __future__ import annotations

import io
from collections.abc import Iterator

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
