"""How much memory it takes to keep what a client has sent."""

from __future__ import annotations

from typing import Any

import numpy as np

_ITEM = 16  # bytes, however little is in it: else empty lists within lists would be nothing


def kept_size(value: Any) -> int:
    """About how many bytes `value` takes: its texts, bytes and arrays, the names within it, and some for each item."""
    total, pending = 0, [value]
    while pending:
        item = pending.pop()
        total += _ITEM
        if isinstance(item, np.ndarray):
            total += int(item.nbytes)
        elif isinstance(item, (bytes, bytearray, memoryview, str)):
            total += len(item)
        elif isinstance(item, dict):
            # Not by its own methods: maps of the RPC libraries have their items as attributes.
            for key, within in dict.items(item):
                total += len(key) if isinstance(key, (bytes, str)) else _ITEM
                pending.append(within)
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending.extend(item)
    return total
