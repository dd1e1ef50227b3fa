"""Run work on images in a thread, so that it does not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from bioengine_server.memory import image_passes

T = TypeVar("T")

_AT_ONCE = 1 << 20  # bytes; for fewer, starting a thread takes longer than the work


async def aside(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Run `work(*arguments)` on about `size` bytes; in a thread if they are many.

    If the caller is cancelled meanwhile, it still waits for the thread, which may use what the caller would close.
    """
    if size < _AT_ONCE:
        return work(*arguments)
    image_passes()
    running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
    finally:
        # It would keep what `work` raised, whose traceback has this frame: images stayed until the garbage collector came.
        del running
