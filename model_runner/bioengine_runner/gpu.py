"""Is there a GPU? Asked of NVIDIA's driver itself, so that nothing heavy is imported for it."""

from __future__ import annotations

import ctypes


def gpus() -> int:
    """How many GPUs NVIDIA's driver has for this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if works else 0
