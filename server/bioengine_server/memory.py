"""How the C library keeps memory."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Awaitable

# glibc's names and its largest threshold (malloc.h; mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes

# An image of 16 MB is in memory several times on its way.
_KEPT = 256 << 20  # bytes
_KEPT_FOR = 30.0  # seconds; longer than a usual run, so that the next image still finds it


async def keeping_memory(work: Awaitable[None]) -> None:
    """Await `work`; meanwhile this process keeps what an image has taken, up to 256 MB, for the next one, half a minute at most.

    By default it goes back to the system at once, which clears every page before it gives it out again.
    What takes more than 32 MB in one piece is given back all the same.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    giving_back = asyncio.create_task(_give_back_regularly())
    try:
        await work
    finally:
        giving_back.cancel()


def give_back_memory() -> None:
    """Give the system what is kept and not in use."""
    ctypes.CDLL(None).malloc_trim(0)


async def _give_back_regularly() -> None:
    while True:
        await asyncio.sleep(_KEPT_FOR)
        await asyncio.to_thread(give_back_memory)
