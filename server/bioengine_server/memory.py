"""Memory management of this process: keep freed memory for the next image, and keep the garbage collector fast."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Awaitable
from typing import TypeVar

# glibc's names and its largest threshold (malloc.h; mallopt(3)).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_MMAP_THRESHOLD = 32 << 20  # bytes

# An image of 16 MB is in memory several times while it is processed.
_KEPT = 256 << 20  # bytes
_SOON = 0.5  # seconds
_KEPT_FOR = 30.0  # seconds; longer than a usual run, so that the next image can still use it

T = TypeVar("T")

_wanted_back = asyncio.Event()
_in_use = asyncio.Event()


async def keeping_memory(work: Awaitable[T]) -> T:
    """Await `work`; meanwhile, freed memory of images, up to 256 MB, is kept until half a minute passes without an image.

    By default it would be returned to the system at once, which has to clear every page before it is used again.
    Pieces of more than 32 MB are returned at once all the same.
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
    """Note that an image is processed, so that freed memory is kept: returning it and getting it again takes time."""
    _in_use.set()


def give_back_soon() -> None:
    """Return freed memory to the system soon, when the request that is being refused or dropped no longer uses it."""
    _wanted_back.set()


def leave_what_is_there() -> None:
    """Make the garbage collector examine only objects that are made from now on.

    Objects that a server has made until it is ready are never freed. Examining all of them takes long, blocks the event loop, and
    would happen again and again while images are processed.
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
            # Only once, however many requests are refused meanwhile.
            await asyncio.sleep(_SOON)
            _wanted_back.clear()
        await asyncio.to_thread(trim, 0)
