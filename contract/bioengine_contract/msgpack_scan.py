"""Count the values in a MessagePack message before memory is allocated for them.

A value may be a single byte in the message, and becomes an object of 60 bytes or more: a gigabyte of such values would use up all
memory. Strings and bytes, in which images are sent, take no more memory than their length. Format: the MessagePack specification,
"Formats".
"""

from __future__ import annotations

import struct

MAX_VALUES = 200_000
MAX_CONTAINERS = 20_000
"""The largest number of maps and lists. Decoding takes about 30 microseconds for each, during which the server cannot answer."""
MAX_DEPTH = 200
_DEEPEST = 1000  # msgpack itself decodes no deeper nesting

# By the first byte: the formats with a fixed number of further bytes, those that begin with a length, and those that hold values.
_FIXED = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}
_SIZED = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
# Extension types are refused. Timestamps are among them: as keys of a map, many could be chosen that have the same hash.
_EXTENSIONS = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
_CONTAINERS = {0xDC: (">H", 1), 0xDD: (">I", 1), 0xDE: (">H", 2), 0xDF: (">I", 2)}


class TooMuch(ValueError):
    """The message is MessagePack, but larger or more deeply nested than allowed.

    Args:
        problem: what there is too much of.
        second: the position where its second part begins; 0 if the first part already has too much.
    """

    def __init__(self, problem: str, second: int) -> None:
        super().__init__(problem)
        self.second = second


def check_structure(data: bytes | bytearray | memoryview, parts: int = 1) -> None:
    """Raises TooMuch for too many values, maps and lists, and for too deep nesting; ValueError if `data` is not MessagePack.

    Extension types are refused with a ValueError.

    Args:
        data: one or more objects, one after the other, and nothing after them.
        parts: the largest number of such objects.
    """
    view, end = memoryview(data), len(data)
    position = values = containers = found = second = deepest = 0
    open_containers: list[int] = []  # for each open map and list: how many values are still missing
    while position < end:
        if not open_containers:
            found += 1
            if found > parts:
                raise ValueError(f"it has more than {parts} part{'' if parts == 1 else 's'}")
            second = position
        values += 1
        if values > MAX_VALUES:
            raise TooMuch(f"it has more than {MAX_VALUES:,} values; send numbers as an array", second)
        containers += _is_container(view[position])
        if containers > MAX_CONTAINERS:
            raise TooMuch(f"it has more than {MAX_CONTAINERS:,} maps and lists; send numbers as an array", second)
        position, inside = _step(view, position)
        if open_containers:
            open_containers[-1] -= 1
        if inside:
            open_containers.append(inside)
            deepest = max(deepest, len(open_containers))
            if deepest > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} deep")
        while open_containers and not open_containers[-1]:
            open_containers.pop()
    if position > end or open_containers:
        raise ValueError("it is cut off")
    if deepest > MAX_DEPTH:
        raise TooMuch(f"it is nested more than {MAX_DEPTH} deep", second)


def _is_container(kind: int) -> bool:
    return 0x80 <= kind <= 0x9F or kind in _CONTAINERS


def _step(view: memoryview, position: int) -> tuple[int, int]:
    """The position after a value's own bytes, and how many values it contains."""
    kind = view[position]
    position += 1
    if kind <= 0x7F or kind >= 0xE0:
        return position, 0
    if kind <= 0x8F:
        return position, 2 * (kind & 0x0F)
    if kind <= 0x9F:
        return position, kind & 0x0F
    if kind <= 0xBF:
        return position + (kind & 0x1F), 0
    if (fixed := _FIXED.get(kind)) is not None:
        return position + fixed, 0
    try:
        if kind in _SIZED:
            form = _SIZED[kind]
            return position + struct.calcsize(form) + struct.unpack_from(form, view, position)[0], 0
        if kind in _CONTAINERS:
            form, factor = _CONTAINERS[kind]
            return position + struct.calcsize(form), factor * struct.unpack_from(form, view, position)[0]
    except struct.error:
        raise ValueError("it is cut off") from None
    if kind in _EXTENSIONS:
        raise ValueError("it has an extension type, such as a timestamp; send strings, numbers, bytes, lists and maps")
    raise ValueError(f"it has the byte {kind:#x}, which is not the first byte of any value")
