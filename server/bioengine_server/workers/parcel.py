"""What goes over HTTP between server and worker: a small header, and behind it arrays or bytes as they lie in memory.

4 bytes, big endian: length of the JSON | JSON {"header": {...}, "arrays": [{"dtype": "<f4", "shape": [...]} or null, ...],
"body": bytes} | the arrays' values in C order, one after the other | the body
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MEDIA_TYPE = "application/x-bioengine-parcel"

_LENGTH = 4  # bytes
_MAX_JSON = 4 << 20  # bytes
_MAX_ARRAYS = 1000
_MAX_AXES = 32
_STEP = 1 << 20  # bytes that are sent at once
_KINDS = "biufc"


class BadParcel(ValueError):
    """What arrives is no parcel."""


@dataclass(frozen=True)
class Parcel:
    """A header with arrays or bytes."""

    header: dict[str, Any]
    arrays: Sequence[np.ndarray | None] = ()
    """None for an optional one that is left out."""
    body: bytes | bytearray = field(default=b"", repr=False)

    def parts(self) -> tuple[int, Iterator[bytes | memoryview]]:
        """Its length in bytes, and the bytes."""
        arrays = [None if array is None else np.ascontiguousarray(array).reshape(array.shape) for array in self.arrays]
        shapes = [None if array is None else {"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
        head = json.dumps({"header": self.header, "arrays": shapes, "body": len(self.body)}).encode()
        size = _LENGTH + len(head) + sum(array.nbytes for array in arrays if array is not None) + len(self.body)

        def each() -> Iterator[bytes | memoryview]:
            yield len(head).to_bytes(_LENGTH, "big") + head
            for block in (*(_bytes(array) for array in arrays if array is not None), memoryview(self.body)):
                for start in range(0, len(block), _STEP):
                    yield block[start : start + _STEP]

        return size, each()


async def receive(chunks: AsyncIterator[bytes], limit: int, take: Callable[[int], None] = lambda size: None) -> Parcel:
    """The parcel in a stream of bytes. Its values are written to their place as they arrive.

    Args:
        chunks: the bytes.
        limit: of the values and the body, in bytes.
        take: told how many bytes the values need, before there is room for them; it may raise.

    Raises BadParcel.
    """
    start = bytearray()
    receiver: _Receiver | None = None
    async for chunk in chunks:
        if receiver is not None:
            receiver.add(chunk)
            continue
        start += chunk
        if len(start) < _LENGTH:
            continue
        length = _LENGTH + int.from_bytes(start[:_LENGTH], "big")
        if length > _LENGTH + _MAX_JSON:
            raise BadParcel("its header is too long")
        if len(start) >= length:
            receiver = _Receiver(bytes(start[_LENGTH:length]), limit, take)
            receiver.add(start[length:])
    if receiver is None or not receiver.is_complete:
        raise BadParcel("it was cut off")
    return Parcel(receiver.header, receiver.arrays, receiver.body)


class _Receiver:
    """Writes the bytes behind a header to where they belong."""

    def __init__(self, head: bytes, limit: int, take: Callable[[int], None]) -> None:
        try:
            described = json.loads(head)
            self.header = dict(described["header"])
            shapes = [None if each is None else _described(each) for each in described["arrays"][:_MAX_ARRAYS]]
            length = int(described["body"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadParcel(f"its header cannot be read ({error})") from None
        size = length + sum(dtype.itemsize * math.prod(shape) for dtype, shape in filter(None, shapes))
        if length < 0 or size > limit:
            raise BadParcel(f"it has {size} bytes, and at most {limit} are taken")
        take(size)
        self.arrays = [None if each is None else np.empty(each[1], each[0]) for each in shapes]
        self.body = bytearray(length)
        blocks = [_bytes(array) for array in self.arrays if array is not None]
        self._blocks = [block for block in (*blocks, memoryview(self.body)) if len(block)]
        self._blocks.reverse()

    @property
    def is_complete(self) -> bool:
        return not self._blocks

    def add(self, data: bytes | bytearray) -> None:
        """Raises BadParcel."""
        rest = memoryview(data)
        while rest:
            if not self._blocks:
                raise BadParcel("there is more after its end")
            block = self._blocks.pop()
            size = min(len(block), len(rest))
            block[:size] = rest[:size]
            rest = rest[size:]
            if size < len(block):
                self._blocks.append(block[size:])


def _described(each: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, shape = np.dtype(str(each["dtype"])), tuple(int(size) for size in each["shape"])
    if dtype.kind not in _KINDS or len(shape) > _MAX_AXES or any(size < 0 for size in shape):
        raise ValueError(f"{dtype} of {shape}")
    return dtype, shape


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")
