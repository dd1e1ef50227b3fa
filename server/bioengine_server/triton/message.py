"""The wire form of a router request and its result: MessagePack of imjoy-rpc's encoding.

An array is `{"_rtype": "ndarray", "_rvalue": bytes, "_rshape": [int, ...], "_rdtype": "float32"}` with C-ordered,
little-endian bytes (imjoy-rpc's "Data type representation"). The runner's side is `bioengine_runner.request.message`.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from bioengine_server.errors import RefusedArgument


def encode(value: Any) -> bytes:
    """`value` as bytes. Raises RefusedArgument for what cannot be sent to a model (a function, an object)."""
    try:
        packed: bytes = msgpack.packb(value, default=_represent, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RefusedArgument("inputs", f"{error}. Send arrays, strings, numbers, lists and dicts only.") from error
    return packed


def decode(data: bytes) -> Any:
    """The object that `data`, a result of ours, encodes."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=_restore)


def size(value: Any) -> int:
    """About how many bytes `value` takes on the wire."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    if isinstance(value, dict):
        return sum(size(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(size(item) for item in value)
    return 8


def _represent(value: Any) -> Any:
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise TypeError(f"an array of {value.dtype} cannot be sent")
        array = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return {"_rtype": "ndarray", "_rvalue": array.tobytes(), "_rshape": list(value.shape), "_rdtype": value.dtype.name}
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _restore(value: dict[str, Any]) -> Any:
    if value.get("_rtype") == "ndarray":
        return np.frombuffer(value["_rvalue"], dtype=value["_rdtype"]).reshape(value["_rshape"])
    return value
