"""Work on images in a thread, so that nobody else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from bioengine_server.memory import image_passes

T = TypeVar("T")

_AT_ONCE = 1 << 20  # bytes; a thread for fewer takes longer than the work does


async def aside(size: int, work: Callable[..., T], *arguments: Any, at_once: int = _AT_ONCE) -> T:
    """`work(*arguments)` on about `size` bytes, in a thread where they are more than `at_once`."""
    if size < at_once:
        return work(*arguments)
    image_passes()
    return await asyncio.to_thread(work, *arguments)
