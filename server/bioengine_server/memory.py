"""How the C library keeps memory."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import Awaitable

# glibc's names and its largest threshold (malloc.h; mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes

# An image of 16 MB is in memory several times on its way.
_KEPT = 256 << 20  # bytes
_SOON = 0.5  # seconds
_KEPT_FOR = 30.0  # seconds; longer than a usual run, so that the next image still finds it

_wanted_back = asyncio.Event()


async def keeping_memory(work: Awaitable[None]) -> None:
    """Await `work`; meanwhile this process keeps what an image has taken, up to 256 MB, for the next one, half a minute at most.

    By default it goes back to the system at once, which clears every page before it gives it out again.
    What takes more than 32 MB in one piece is given back all the same.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    giving_back = asyncio.create_task(_give_back())
    try:
        await work
    finally:
        giving_back.cancel()


def give_back_soon() -> None:
    """Have the system get what is kept when what is being refused, or forgotten, at this moment is no longer in use."""
    _wanted_back.set()


async def _give_back() -> None:
    trim = ctypes.CDLL(None).malloc_trim
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEPT_FOR):
                await _wanted_back.wait()
            # Once, however many are refused meanwhile.
            await asyncio.sleep(_SOON)
            _wanted_back.clear()
        await asyncio.to_thread(trim, 0)
