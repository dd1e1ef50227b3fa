"""Estimate how much memory the data that a client has sent takes."""

from __future__ import annotations

from typing import Any

import numpy as np

_ITEM = 16  # bytes of each item, even an empty one: otherwise nested empty lists would count as nothing


def kept_size(value: Any) -> int:
    """About how many bytes `value` takes: its texts, bytes, arrays and names, and a fixed number for each item."""
    total, pending = 0, [value]
    while pending:
        item = pending.pop()
        total += _ITEM
        if isinstance(item, np.ndarray):
            total += int(item.nbytes)
        elif isinstance(item, (bytes, bytearray, memoryview, str)):
            total += len(item)
        elif isinstance(item, dict):
            # Not with the map's own methods: maps of the RPC libraries offer their items as attributes.
            for key, within in dict.items(item):
                total += len(key) if isinstance(key, (bytes, str)) else _ITEM
                pending.append(within)
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending.extend(item)
    return total
