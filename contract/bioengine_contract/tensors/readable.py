"""Convert a model's outputs to dtypes that every client can decode."""

from __future__ import annotations

import numpy as np

# imjoy-rpc in JavaScript decodes these only.
READABLE = frozenset("bool uint8 int8 uint16 int16 uint32 int32 float32 float64".split())


def readable(array: np.ndarray) -> np.ndarray:
    """`array` in a dtype that JavaScript clients decode as well.

    float16 becomes float32; int64 becomes int32 and uint64 uint32 where all values fit, else float64.
    """
    if array.dtype.name in READABLE:
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        narrow = np.int32 if array.dtype.kind == "i" else np.uint32
        limits = np.iinfo(narrow)
        if array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max):
            return array.astype(narrow)
    return array.astype(np.float64)
