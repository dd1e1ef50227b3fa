"""How requests to `bioengine-model-runner` and their results are encoded: imjoy-rpc's data representation, as MessagePack.

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
"""The dtypes that are accepted, by name or in NumPy's spelling with a byte order (>f4). Object arrays and structured dtypes are
not."""

MAX_AXES = 32
"""The largest number of axes of an array; it is NumPy 1's limit."""

_SPELLINGS = {np.dtype(order + np.dtype(name).str[1:]).str for name in DTYPES for order in "<>"}


def encode(value: Any) -> bytes:
    """Encode `value` (dicts, lists, strings, numbers, arrays). Raises TypeError for what cannot be sent, such as a function."""
    packed: bytes = msgpack.packb(value, default=represent, use_bin_type=True)
    return packed


def decode(data: bytes | memoryview) -> Any:
    """Decode `data`; arrays are read-only views of it.

    `data` may be hostile, so the number of values in it is checked before memory is allocated. Raises ValueError or
    msgpack.UnpackException if `data` is not in this encoding.
    """
    check_structure(data)

    def restored(items: dict[Any, Any]) -> Any:
        if not all(isinstance(key, str) for key in items):
            raise ValueError("a map within has a key that is not a string")
        return restore(items)

    return msgpack.unpackb(data, raw=False, strict_map_key=True, object_hook=restored)


def size(value: Any) -> int:
    """About how many bytes `value` has when it is encoded."""
    total, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, np.ndarray):
            total += int(item.nbytes)
        elif isinstance(item, (bytes, bytearray, str)):
            total += len(item)
        elif isinstance(item, dict):
            # Not `value.values()`: hypha-rpc's dicts offer their items as attributes, so that a key could hide the method.
            pending.extend(dict.values(item))
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
        else:
            total += 8
    return total


def restore(value: dict[str, Any]) -> Any:
    """The array that an encoded dict stands for; other dicts unchanged. Raises ValueError."""
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
    """Bytes of one element, for a dtype named as in the encoding. Raises ValueError."""
    if not isinstance(dtype, str) or dtype not in DTYPES | _SPELLINGS:
        raise ValueError(f"the dtype {str(dtype)[:40]!r} is not one of {', '.join(sorted(DTYPES))}")
    return np.dtype(dtype).itemsize


def represent(value: Any) -> Any:
    """The encoded form of a value that MessagePack itself cannot encode. Raises TypeError."""
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        data = array.reshape(-1).view(np.uint8).data  # not a copy
        return {"_rtype": "ndarray", "_rvalue": data, "_rshape": list(value.shape), "_rdtype": value.dtype.name}
    raise TypeError(f"a {type(value).__name__} cannot be sent")
