"""The wire form of a router request and its result: MessagePack of imjoy-rpc's encoding.

An array is `{"_rtype": "ndarray", "_rvalue": bytes, "_rshape": [int, ...], "_rdtype": "float32"}` with C-ordered,
little-endian bytes (imjoy-rpc's "Data type representation"), or, where tensors are shared, `{"_rtype": "ndarray", "_rfile": name,
"_rshape"}`.
The server's side is `bioengine_server.triton.message`.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from bioengine_runner.errors import BadRequest, shorten
from bioengine_runner.request.shared import SharedFolder

# What may arrive, by name or, with a byte order, as NumPy spells it (>f4); object arrays and structured dtypes may not.
DTYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split())
_SPELLINGS = {np.dtype(order + np.dtype(name).str[1:]).str for name in DTYPES for order in "<>"}
_MOST_AXES = 32  # as NumPy 1 has it


def decode(data: bytes, root: Path | None = None) -> Any:
    """The object that `data` encodes. Arrays are read-only views of it, or mapped from the folder that it names in `root`.

    Raises BadRequest.
    """
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False)
        return _restore(value, SharedFolder.named(root, value.get("shared")) if isinstance(value, dict) else None)
    except (ValueError, TypeError, OSError, msgpack.UnpackException, RecursionError) as error:
        raise BadRequest(
            f"The request cannot be read ({str(error)[:200]}). Expected MessagePack of a dict in imjoy-rpc's encoding; "
            "the triton-client service makes it for you."
        ) from error


def encode(value: Any, shared: SharedFolder | None = None) -> bytes:
    """`value` (dicts, lists, strings, numbers, arrays) as bytes, large arrays by reference to `shared`."""
    numbers = itertools.count()

    def by_reference(item: Any) -> Any:
        if shared is not None and isinstance(item, np.ndarray):
            name = shared.holder(item) or shared.write(item, f"answer-{next(numbers)}")
            if name is not None:
                return {"_rtype": "ndarray", "_rfile": name, "_rshape": list(item.shape)}
        return _represent(item)

    packed: bytes = msgpack.packb(value, default=by_reference, use_bin_type=True)
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


def _restore(value: Any, shared: SharedFolder | None) -> Any:
    if isinstance(value, dict):
        if value.get("_rtype") == "ndarray":
            if shared is not None and "_rfile" in value:
                return shared.read(value["_rfile"], value.get("_rshape"))
            return _restore_array(value)
        return {key: _restore(item, shared) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item, shared) for item in value]
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
        raise ValueError(f"an array of shape {shorten(shape)} and dtype {dtype} cannot have {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)
