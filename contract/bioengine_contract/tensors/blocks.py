"""Large arrays a piece at a time: what is computed of them on the way never takes as much memory as they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# In the widest dtype, of 16 bytes, a block takes 2 MB.
_SIZE = 131_072  # values


def blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The values of arrays of one shape, which may lie anyhow in memory: of each the same ones, in one dimension.

    In the order in which they lie in memory. A block is valid until the next one is asked for, and is not to be written to.
    """
    iterator = np.nditer(arrays, ["external_loop", "buffered", "zerosize_ok"], [["readonly"]] * len(arrays), buffersize=_SIZE)
    with iterator:
        while not iterator.finished:
            values: Any = iterator.value
            yield values if isinstance(values, tuple) else (values,)
            iterator.iternext()
