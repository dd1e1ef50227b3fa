"""Work on images in a thread."""

from __future__ import annotations

import asyncio
import gc
import weakref

import numpy as np
import pytest
from bioengine_server.aside import aside


@pytest.mark.parametrize("size", [1, 10_000_000])
async def test_what_fails_keeps_nothing_of_its_arguments(size: int) -> None:
    """Not even until the garbage collector comes: many of them would fill the memory before it does."""

    def fail(_: np.ndarray) -> None:
        raise ValueError("not an image")

    image = np.zeros(4)
    kept = weakref.ref(image)
    gc.disable()
    try:
        try:
            await aside(size, fail, image)
        except ValueError:
            del image
        await asyncio.sleep(0.01)  # for what asyncio does at the end of the thread
        assert kept() is None
    finally:
        gc.enable()
