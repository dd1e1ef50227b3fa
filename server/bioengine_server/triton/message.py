"""The wire form of a router request and its result: MessagePack of imjoy-rpc's encoding.

An array is `{"_rtype": "ndarray", "_rvalue": bytes, "_rshape": [int, ...], "_rdtype": "float32"}` with C-ordered,
little-endian bytes (imjoy-rpc's "Data type representation"), or, where tensors are shared, `{"_rtype": "ndarray", "_rfile": name,
"_rshape"}`.
The runner's side is `bioengine_runner.request.message`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgpack
import numpy as np

from bioengine_server.errors import RefusedArgument
from bioengine_server.hub.msgpack_scan import check_structure
from bioengine_server.triton.shared import SharedFolder

# What may arrive, by name or, with a byte order, as NumPy spells it (>f4); object arrays and structured dtypes may not.
_DTYPES = frozenset("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split())
_SPELLINGS = {np.dtype(order + np.dtype(name).str[1:]).str for name in _DTYPES for order in "<>"}
_MOST_AXES = 32  # as NumPy 1 has it


def encode(value: Any, shared: SharedFolder | None = None) -> bytes:
    """`value` as bytes, large arrays by reference to `shared`.

    Raises RefusedArgument for what cannot be sent to a model (a function, an object).
    """

    def by_reference(item: Any) -> Any:
        if shared is not None and _is_numeric(item) and (name := shared.write(item)):
            return {"_rtype": "ndarray", "_rfile": name, "_rshape": list(item.shape)}
        return represent(item)

    try:
        packed: bytes = msgpack.packb(value, default=by_reference, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RefusedArgument("inputs", f"{error}. Send arrays, strings, numbers, lists and dicts only.") from error
    return packed


def decode(data: bytes | memoryview, shared: SharedFolder | None = None) -> Any:
    """The object that the router's answer encodes; descriptions in it may have numbers as keys.

    Raises ValueError, or msgpack.UnpackException, for what is not such an encoding.
    """

    def by_reference(item: dict[str, Any]) -> Any:
        return shared.read(item["_rfile"], item["_rshape"]) if shared is not None and "_rfile" in item else restore(item)

    return msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=by_reference)


def decode_request(data: bytes | memoryview) -> Any:
    """`decode` for what a client sent, or a client's model made: bounded, and with strings as keys. Raises as `decode` does."""
    check_structure(data)

    def restored(items: dict[Any, Any]) -> Any:
        if not all(isinstance(key, str) for key in items):
            raise ValueError("a map within has a key that is not a string")
        return restore(items)

    return msgpack.unpackb(data, raw=False, strict_map_key=True, object_hook=restored)


def plain_error(text: str) -> str:
    """Triton's error without the insides of the server: the runner's own message where it has one (`errors.marked` there)."""
    try:
        text = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        pass
    if found := re.search("«bioengine (.*?)»", text, flags=re.DOTALL):
        return found[1]
    if re.search("Stub process .* is not healthy", text):
        return (
            "The process of the model has ended, perhaps for want of memory. Send the request again; if it fails again, ask the "
            "server's admin to look at its log."
        )
    text = text.partition("\n\nAt:")[0].partition("Traceback (most recent call last)")[0]
    return text.removeprefix("[request id: <id_unknown>] ").strip()


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
    if len(shape) > _MOST_AXES or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"the shape {str(shape)[:80]} is not a list of at most {_MOST_AXES} sizes")
    if math.prod(shape) * item_size(dtype) != len(data):
        raise ValueError(f"an array of shape {str(tuple(shape))[:80]} and dtype {dtype} cannot have {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def item_size(dtype: Any) -> int:
    """Bytes of one element of a dtype as the encoding names it. Raises ValueError."""
    if not isinstance(dtype, str) or dtype not in _DTYPES | _SPELLINGS:
        raise ValueError(f"the dtype {str(dtype)[:40]!r} is not one of {', '.join(sorted(_DTYPES))}")
    return np.dtype(dtype).itemsize


def represent(value: Any) -> Any:
    """What the encoding has for a value that is not plain data. Raises TypeError."""
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return value.item()
    if isinstance(value, np.ndarray):
        if not _is_numeric(value):
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        data = array.reshape(-1).view(np.uint8).data  # not a copy
        return {"_rtype": "ndarray", "_rvalue": data, "_rshape": list(value.shape), "_rdtype": value.dtype.name}
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
