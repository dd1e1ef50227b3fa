"""The bytes of Triton's tensors: converted from JSON, or checked while they pass.

A tensor of numbers consists of its elements, little-endian; one of BYTES consists, for each element, of its length in four bytes
and the element (Triton's binary tensor data extension).
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
"""Bytes of one element; elements of BYTES have their own lengths."""

MAX_ELEMENTS = 2**48  # of a tensor, far from where 64 bits end

_LENGTH = 4  # bytes before each element of BYTES


@dataclass(frozen=True)
class Segment:
    """A tensor in the binary part of a request. `texts`: how many elements of BYTES it has, None for numbers."""

    name: str
    size: int
    texts: int | None = None


def from_json(data: Any, datatype: str, elements: int, depth: int) -> bytes | str:
    """Convert a tensor's JSON `data` to bytes; returns a text if something is wrong with it.

    Args:
        data: a list of values, flat or nested like the shape.
        datatype: one of DATATYPES.
        elements: the required number of elements.
        depth: the largest depth of nesting.
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
        return "has to be binary: JSON does not have such numbers"
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
    return data if len(data) == elements else f"has {len(data)} values, not {elements}"


class Counter:
    """Reads the binary part of a request while it passes, and checks that it matches the header."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = list(segments)
        self._number = 0
        self._left = self._segments[0].size if self._segments else 0
        self._texts = 0
        self._skip = 0  # bytes that are left of the present element
        self._length = bytearray()  # the received part of the next element's length

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Check the next bytes. Raises BadBody for excess bytes."""
        view = memoryview(chunk)
        while view:
            self._next_segment()
            if self._number == len(self._segments):
                raise BadBody(f"it goes on after its tensors, which have {sum(part.size for part in self._segments)} bytes")
            taken = self._read_texts(view[: self._left]) if self._segment.texts is not None else min(self._left, len(view))
            self._left -= taken
            view = view[taken:]

    def end(self) -> None:
        """Check that the body is complete. Raises BadBody if something is missing."""
        self._next_segment()
        if self._number < len(self._segments):
            raise BadBody(f"it ends within the tensor {self._segment.name!r}, of which {self._left} bytes are missing")

    @property
    def _segment(self) -> Segment:
        return self._segments[self._number]

    def _next_segment(self) -> None:
        """Go on to the next tensor with bytes."""
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
        """Read elements of BYTES from all of `view`; returns the number of bytes read."""
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
    """Yield the binary part of a request while it arrives. The last piece is held back until the whole part is checked.

    So the receiver never gets a wrong request completely. Raises BadBody, and what `parts` raises.
    """
    counter, held = Counter(segments), b""
    async for part in parts:
        counter.feed(part)  # checked first, so that excess bytes are found before the rest is passed on
        if held:
            yield held
        held = bytes(part)
    counter.end()
    yield held
