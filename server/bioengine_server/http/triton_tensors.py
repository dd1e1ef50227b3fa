"""The bytes of Triton's tensors: from JSON, and counted as they stream past.

A tensor of numbers has its elements one after the other, little-endian; one of BYTES has, for each element, its length in four
bytes and then the element (Triton's binary tensor data extension).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bioengine_server.access.errors import BadBody

DATATYPES: dict[str, int | None] = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "FP32": 4, "FP64": 8, "BF16": 2, "BYTES": None,
}  # fmt: skip
"""Bytes of an element; BYTES have lengths of their own."""

MAX_ELEMENTS = 2**48  # of a tensor, far from where 64 bits end

_LENGTH = 4  # bytes before each element of BYTES


@dataclass(frozen=True)
class Segment:
    """A tensor in the binary part of a request. `texts`: how many elements of BYTES it has, None for numbers."""

    name: str
    size: int
    texts: int | None = None


def from_json(data: Any, datatype: str, elements: int, depth: int) -> bytes | str:
    """A tensor's `data` in JSON as bytes, or what is wrong with it.

    Args:
        data: a list of values, flat or nested as the shape is.
        datatype: one of DATATYPES.
        elements: that there have to be.
        depth: of nesting, at most.
    """
    values = _flat(data, elements, depth)
    if isinstance(values, str):
        return values
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            return "has to be strings"
        texts = [value.encode("utf-8", "surrogatepass") for value in values]
        return b"".join(len(text).to_bytes(_LENGTH, "little") + text for text in texts)
    if datatype in ("FP16", "BF16"):
        return "has to be binary: JSON has no such numbers"
    if datatype == "BOOL":
        return bytes(values) if all(isinstance(value, bool) for value in values) else "has to be true and false"
    if datatype.startswith("FP"):
        if not all(type(value) in (int, float) for value in values):
            return "has to be numbers"
        try:
            with np.errstate(over="raise"):
                array = np.array([float(value) for value in values]).astype(f"<f{DATATYPES[datatype]}")
        except (OverflowError, FloatingPointError):
            return "has numbers beyond its range"
        return array.tobytes() if np.isfinite(array).all() else "has numbers beyond its range"
    dtype = np.dtype(f"<{'u' if datatype.startswith('U') else 'i'}{DATATYPES[datatype]}")
    limits = np.iinfo(dtype)
    if not all(type(value) is int and limits.min <= value <= limits.max for value in values):
        return f"has to be whole numbers from {limits.min} to {limits.max}"
    return np.array(values, dtype).tobytes()


def _flat(data: Any, elements: int, depth: int) -> list[Any] | str:
    if not isinstance(data, list):
        return "has to be a list"
    for _ in range(depth):
        if not any(isinstance(item, list) for item in data):
            break
        if not all(isinstance(item, list) for item in data):
            return "has values and lists side by side"
        data = [value for item in data for value in item]
    else:
        return f"is nested deeper than {depth}"
    return data if len(data) == elements else f"has {len(data)} values and not {elements}"


class Counter:
    """Reads the binary part of a request as it passes, and knows whether it is what the header says."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = list(segments)
        self._number = 0
        self._left = self._segments[0].size if self._segments else 0
        self._texts = 0
        self._skip = 0  # bytes of the element at hand
        self._length = bytearray()  # what has come of the length of the next one

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises BadBody for those that should not be there."""
        view = memoryview(chunk)
        while view:
            self._next_segment()
            if self._number == len(self._segments):
                raise BadBody(f"it goes on after its tensors, which have {sum(part.size for part in self._segments)} bytes")
            taken = self._read_texts(view[: self._left]) if self._segment.texts is not None else min(self._left, len(view))
            self._left -= taken
            view = view[taken:]

    def end(self) -> None:
        """Nothing more comes. Raises BadBody where something is missing."""
        self._next_segment()
        if self._number < len(self._segments):
            raise BadBody(f"it ends within the tensor {self._segment.name!r}, of which {self._left} bytes are missing")

    @property
    def _segment(self) -> Segment:
        return self._segments[self._number]

    def _next_segment(self) -> None:
        """Go on to the next tensor that has bytes to come."""
        while self._number < len(self._segments) and not self._left:
            wanted = self._segment.texts
            if wanted is not None and (self._texts != wanted or self._skip or self._length):
                raise BadBody(
                    f"the {self._segment.size} bytes of the tensor {self._segment.name!r} are not the {wanted} BYTES elements of "
                    "its shape, each after its length in four bytes"
                )
            self._number += 1
            self._texts, self._skip, self._length = 0, 0, bytearray()
            self._left = self._segment.size if self._number < len(self._segments) else 0

    def _read_texts(self, view: memoryview) -> int:
        """Read elements of BYTES; the bytes that were taken, which are all of `view`."""
        at, wanted = 0, self._segment.texts
        assert wanted is not None
        while at < len(view):
            if self._skip:
                step = min(self._skip, len(view) - at)
                self._skip -= step
                at += step
                continue
            if self._texts >= wanted:
                raise BadBody(f"the tensor {self._segment.name!r} has more than the {wanted} BYTES elements of its shape")
            step = min(_LENGTH - len(self._length), len(view) - at)
            self._length += view[at : at + step]
            at += step
            if len(self._length) == _LENGTH:
                self._skip = int.from_bytes(self._length, "little")
                self._length.clear()
                self._texts += 1
        return at


async def counted(parts: AsyncIterator[bytes | bytearray], segments: Sequence[Segment]) -> AsyncIterator[bytes | bytearray]:
    """The binary part of a request as it comes. Its last piece is held back until all is known to be right.

    So whoever gets it never has the whole of a wrong one. Raises BadBody, and what `parts` raises.
    """
    counter, held = Counter(segments), b""
    async for part in parts:
        counter.feed(part)  # first: what is too much shows before the rest has gone
        if held:
            yield held
        held = bytes(part)
    counter.end()
    yield held
