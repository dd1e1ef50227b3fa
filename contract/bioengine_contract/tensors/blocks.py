"""Go through large arrays in blocks, so that intermediate results never take as much memory as the arrays themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# In the widest dtype, of 16 bytes, a block takes 2 MB.
_SIZE = 131_072  # values


def blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Go through several arrays of the same shape, with any memory layout: yields the same values of each, as 1-d arrays.

    The values come in their order in memory. A block is valid until the next one is requested, and must not be written to.
    """
    iterator = np.nditer(arrays, ["external_loop", "buffered", "zerosize_ok"], [["readonly"]] * len(arrays), buffersize=_SIZE)
    with iterator:
        while not iterator.finished:
            values: Any = iterator.value
            yield values if isinstance(values, tuple) else (values,)
            iterator.iternext()
