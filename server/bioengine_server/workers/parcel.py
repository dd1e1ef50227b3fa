"""What goes over HTTP between server and worker: a small header, and behind it arrays or bytes as they lie in memory.

4 bytes, big endian: length of the JSON | JSON {"header": {...}, "arrays": [{"dtype": "<f4", "shape": [...]} or null, ...],
"body": bytes} | the arrays' values in C order, one after the other | the body
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from bioengine_contract.shared_tensors import SharedArray

MEDIA_TYPE = "application/x-bioengine-parcel"

_LENGTH = 4  # bytes
_MAX_JSON = 4 << 20  # bytes
_MAX_ARRAYS = 1000
_MAX_AXES = 32
_STEP = 1 << 20  # bytes that are sent at once
_KINDS = "biufc"


Place: TypeAlias = Callable[[int, np.dtype, tuple[int, ...]], tuple[SharedArray, BinaryIO] | None]
"""Where an array goes, by its number, dtype and shape: a file, and what it is written to; None: into memory."""


class BadParcel(ValueError):
    """What arrives is no parcel."""


@dataclass(frozen=True)
class Parcel:
    """A header with arrays or bytes."""

    header: dict[str, Any]
    arrays: Sequence[np.ndarray | SharedArray | None] = ()
    """None for an optional one that is left out. One in a file is read when the parcel is sent."""
    body: bytes | bytearray = field(default=b"", repr=False)

    def in_memory(self) -> list[np.ndarray | None]:
        """The arrays. Raises ValueError, OSError for one in a file that cannot be read."""
        return [array.read() if isinstance(array, SharedArray) else array for array in self.arrays]

    def parts(self) -> tuple[int, Iterator[bytes | memoryview]]:
        """Its length in bytes, and the bytes."""
        arrays = [None if array is None else np.ascontiguousarray(array).reshape(array.shape) for array in self.in_memory()]
        shapes = [None if array is None else {"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
        head = json.dumps({"header": self.header, "arrays": shapes, "body": len(self.body)}).encode()
        size = _LENGTH + len(head) + sum(array.nbytes for array in arrays if array is not None) + len(self.body)

        def each() -> Iterator[bytes | memoryview]:
            yield len(head).to_bytes(_LENGTH, "big") + head
            for block in (*(_bytes(array) for array in arrays if array is not None), memoryview(self.body)):
                for start in range(0, len(block), _STEP):
                    yield block[start : start + _STEP]

        return size, each()


async def receive(
    chunks: AsyncIterator[bytes],
    limit: int,
    take: Callable[[int], None] = lambda size: None,
    place: Place = lambda number, dtype, shape: None,
) -> Parcel:
    """The parcel in a stream of bytes. Its values are written to their place as they arrive.

    Args:
        chunks: the bytes.
        limit: of the values and the body, in bytes.
        take: told how many bytes the values need, before there is room for them; it may raise.
        place: where each array goes.

    Raises BadParcel.
    """
    start = bytearray()
    receiver: _Receiver | None = None
    try:
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
                receiver = _Receiver(bytes(start[_LENGTH:length]), limit, take, place)
                receiver.add(start[length:])
        if receiver is None or not receiver.is_complete:
            raise BadParcel("it was cut off")
        return Parcel(receiver.header, receiver.arrays, receiver.body)
    finally:
        if receiver is not None:
            receiver.close()


class _Receiver:
    """Writes the bytes behind a header to where they belong."""

    def __init__(self, head: bytes, limit: int, take: Callable[[int], None], place: Place) -> None:
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
        self.arrays: list[np.ndarray | SharedArray | None] = []
        self._blocks: list[memoryview | _FileBlock] = []
        for number, each in enumerate(shapes):
            if each is None:
                self.arrays.append(None)
            elif (placed := place(number, *each)) is not None:
                array, file = placed
                self.arrays.append(array)
                self._blocks.append(_FileBlock(file, array.nbytes))
            else:
                empty = np.empty(each[1], each[0])
                self.arrays.append(empty)
                self._blocks.append(_bytes(empty))
        self.body = bytearray(length)
        self._blocks.append(memoryview(self.body))
        self._blocks = [block for block in self._blocks if len(block)]
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
            left: memoryview | _FileBlock
            if isinstance(block, _FileBlock):
                left = block.write(rest[:size])
            else:
                block[:size] = rest[:size]
                left = block[size:]
            rest = rest[size:]
            if len(left):
                self._blocks.append(left)

    def close(self) -> None:
        """Close files that were not filled."""
        for block in self._blocks:
            if isinstance(block, _FileBlock):
                block.close()


class _FileBlock:
    """A file to which so many bytes are to be written."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def __len__(self) -> int:
        return self._left

    def write(self, data: memoryview) -> _FileBlock:
        """Raises BadParcel."""
        try:
            while data:
                written = self._file.write(data)
                data = data[written:]
                self._left -= written
        except OSError as error:
            raise BadParcel(f"there is no room for its arrays ({error.strerror})") from None
        if not self._left:
            self._file.close()
        return self

    def close(self) -> None:
        self._file.close()


def _described(each: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, shape = np.dtype(str(each["dtype"])), tuple(int(size) for size in each["shape"])
    if dtype.kind not in _KINDS or len(shape) > _MAX_AXES or any(size < 0 for size in shape):
        raise ValueError(f"{dtype} of {shape}")
    return dtype, shape


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")
