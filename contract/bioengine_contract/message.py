"""The wire form of a request of `bioengine-model-runner` and its result: MessagePack of imjoy-rpc's encoding.

An array is `{"_rtype": "ndarray", "_rvalue": bytes, "_rshape": [int, ...], "_rdtype": "float32"}` with C-ordered,
little-endian bytes (imjoy-rpc's "Data type representation").
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from bioengine_contract.msgpack_scan import check_structure

DTYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split())
"""What may arrive, by name or, with a byte order, as NumPy spells it (>f4); object arrays and structured dtypes may not."""

MAX_AXES = 32
"""Of an array, as NumPy 1 has it."""

_SPELLINGS = {np.dtype(order + np.dtype(name).str[1:]).str for name in DTYPES for order in "<>"}


def encode(value: Any) -> bytes:
    """`value` (dicts, lists, strings, numbers, arrays) as bytes. Raises TypeError for what cannot be sent, such as a function."""
    packed: bytes = msgpack.packb(value, default=represent, use_bin_type=True)
    return packed


def decode(data: bytes | memoryview) -> Any:
    """The object that `data` encodes; arrays are read-only views of it.

    `data` may be hostile: how much there is in it is seen before memory is taken. Raises ValueError, or
    msgpack.UnpackException, for what is not such an encoding.
    """
    check_structure(data)

    def restored(items: dict[Any, Any]) -> Any:
        if not all(isinstance(key, str) for key in items):
            raise ValueError("a map within has a key that is not a string")
        return restore(items)

    return msgpack.unpackb(data, raw=False, strict_map_key=True, object_hook=restored)


def size(value: Any) -> int:
    """About how many bytes `value` takes on the wire."""
    total, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, np.ndarray):
            total += int(item.nbytes)
        elif isinstance(item, (bytes, bytearray, str)):
            total += len(item)
        elif isinstance(item, dict):
            # Not by its own `values`: hypha-rpc's maps have their items as attributes.
            pending.extend(dict.values(item))
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
        else:
            total += 8
    return total


def restore(value: dict[str, Any]) -> Any:
    """The array that a dict of the encoding stands for; other dicts as they are. Raises ValueError."""
    if dict.get(value, "_rtype") != "ndarray":
        return value
    data, shape, dtype = (dict.get(value, name) for name in ("_rvalue", "_rshape", "_rdtype"))
    if isinstance(data, (list, tuple)) and all(isinstance(part, bytes) for part in data):
        data = b"".join(data)
    if not isinstance(data, (bytes, memoryview)) or not isinstance(shape, (list, tuple)):
        raise ValueError("an ndarray needs _rvalue (bytes) and _rshape (a list)")
    if len(shape) > MAX_AXES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"the shape {str(shape)[:80]} is not a list of at most {MAX_AXES} sizes")
    if math.prod(shape) * item_size(dtype) != len(data):
        raise ValueError(f"an array of shape {str(tuple(shape))[:80]} and dtype {dtype} cannot have {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def item_size(dtype: Any) -> int:
    """Bytes of one element of a dtype as the encoding names it. Raises ValueError."""
    if not isinstance(dtype, str) or dtype not in DTYPES | _SPELLINGS:
        raise ValueError(f"the dtype {str(dtype)[:40]!r} is not one of {', '.join(sorted(DTYPES))}")
    return np.dtype(dtype).itemsize


def represent(value: Any) -> Any:
    """What the encoding has for a value that is not plain data. Raises TypeError."""
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        data = array.reshape(-1).view(np.uint8).data  # not a copy
        return {"_rtype": "ndarray", "_rvalue": data, "_rshape": list(value.shape), "_rdtype": value.dtype.name}
    raise TypeError(f"a {type(value).__name__} cannot be sent")
