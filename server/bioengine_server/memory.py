"""What this process does with memory: kept for the image that comes next, and left alone where it stays for good."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Awaitable
from typing import TypeVar

# glibc's names and its largest threshold (malloc.h; mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_MMAP_THRESHOLD = 32 << 20  # bytes

# An image of 16 MB is in memory several times on its way.
_KEPT = 256 << 20  # bytes
_SOON = 0.5  # seconds
_KEPT_FOR = 30.0  # seconds; longer than a usual run, so that the next image still finds it

T = TypeVar("T")

_wanted_back = asyncio.Event()
_in_use = asyncio.Event()


async def keeping_memory(work: Awaitable[T]) -> T:
    """Await `work`; meanwhile this process keeps what an image has taken, up to 256 MB, until half a minute passes without one.

    By default it goes back to the system at once, which clears every page before it gives it out again.
    What takes more than 32 MB in one piece is given back all the same.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    giving_back = asyncio.create_task(_give_back())
    try:
        return await work
    finally:
        giving_back.cancel()


def image_passes() -> None:
    """Have what is kept stay: to give it back takes time, and so does it to get it again."""
    _in_use.set()


def give_back_soon() -> None:
    """Have the system get what is kept when what is being refused, or forgotten, at this moment is no longer in use."""
    _wanted_back.set()


def leave_what_is_there() -> None:
    """Have the garbage collector look only at what is made from now on.

    What a server has made until it is ready stays for good. To look at all of it takes long, nobody is answered meanwhile, and
    while images come it happens again and again.
    """
    gc.collect()
    gc.freeze()


async def _give_back() -> None:
    trim = ctypes.CDLL(None).malloc_trim
    while True:
        try:
            async with asyncio.timeout(_KEPT_FOR):
                await _wanted_back.wait()
        except TimeoutError:
            if _in_use.is_set():
                _in_use.clear()
                continue
        else:
            # Once, however many are refused meanwhile.
            await asyncio.sleep(_SOON)
            _wanted_back.clear()
        await asyncio.to_thread(trim, 0)
