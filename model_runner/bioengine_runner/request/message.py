"""The wire form of a router request and its result: MessagePack of imjoy-rpc's encoding.

An array is `{"_rtype": "ndarray", "_rvalue": bytes, "_rshape": [int, ...], "_rdtype": "float32"}` with C-ordered,
little-endian bytes (imjoy-rpc's "Data type representation"). The server's side is `bioengine_server.triton.message`.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from bioengine_runner.errors import BadRequest, shorten

# What may arrive, by name or, with a byte order, as NumPy spells it (>f4); object arrays and structured dtypes may not.
DTYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split())
_SPELLINGS = {np.dtype(order + np.dtype(name).str[1:]).str for name in DTYPES for order in "<>"}
_MOST_AXES = 32  # as NumPy 1 has it


def decode(data: bytes) -> Any:
    """The object that `data` encodes, with arrays as read-only NumPy views of it. Raises BadRequest."""
    try:
        return _restore(msgpack.unpackb(data, raw=False, strict_map_key=False))
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise BadRequest(
            f"The request cannot be read ({error}). Expected MessagePack of a dict in imjoy-rpc's encoding; "
            "the triton-client service makes it for you."
        ) from error


def encode(value: Any) -> bytes:
    """`value` (dicts, lists, strings, numbers, arrays) as bytes."""
    packed: bytes = msgpack.packb(value, default=_represent, use_bin_type=True)
    return packed


def _represent(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return {
            "_rtype": "ndarray",
            "_rvalue": array.reshape(-1).view(np.uint8).data,  # not a copy
            "_rshape": list(value.shape),
            "_rdtype": value.dtype.name,
        }
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("_rtype") == "ndarray":
            return _restore_array(value)
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return value


def _restore_array(value: dict[str, Any]) -> np.ndarray:
    data, shape, dtype = value.get("_rvalue"), value.get("_rshape"), value.get("_rdtype")
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise ValueError("an ndarray needs _rvalue (bytes) and _rshape (a list)")
    if dtype not in DTYPES | _SPELLINGS:
        raise ValueError(f"the dtype {shorten(dtype)} is not one of {', '.join(sorted(DTYPES))}")
    if len(shape) > _MOST_AXES or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"the shape {shorten(shape)} is not a list of at most {_MOST_AXES} sizes")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise ValueError(f"an array of shape {tuple(shape)} and dtype {dtype} cannot have {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
