"""What NVIDIA's driver says, asked of its own libraries, so that nothing heavy is imported for it."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

from bioengine_contract.operations import Card

_MAX_PROCESSES = 512  # on one card


def gpus() -> int:
    """How many GPUs the driver has for this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if works else 0


class _ProcessMemory(ctypes.Structure):
    """NVML's nvmlProcessInfo_v2_t."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


class _Memory(ctypes.Structure):
    """NVML's nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def cards() -> list[Card]:
    """The cards, as the driver's management library (NVML) says; none where it does not say.

    Where CUDA_VISIBLE_DEVICES has numbers, those alone.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    chosen = {int(number) for number in visible.split(",") if number.strip().isdecimal()}
    library = _management_library()
    count = ctypes.c_uint()
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        if visible and index not in chosen:
            continue
        device, memory, name = ctypes.c_void_p(), _Memory(), ctypes.create_string_buffer(96)
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            continue
        if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != 0:
            continue
        library.nvmlDeviceGetName(device, name, len(name))
        found.append(Card(index=index, name=name.value.decode(errors="replace"), memory=memory.total, free=memory.free))
    return found


def memory_by_process() -> dict[int, int]:
    """Bytes of all cards' memory by process id, as the driver's management library (NVML) says; nothing where it does not say.

    In a container it may name processes by other ids than they have there, and on a virtual GPU it does not know.
    """
    library = _management_library()
    if library is None:
        return {}
    found: dict[int, int] = {}
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return {}
    for index in range(count.value):
        device, length = ctypes.c_void_p(), ctypes.c_uint(_MAX_PROCESSES)
        processes = (_ProcessMemory * _MAX_PROCESSES)()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            continue
        if library.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(length), processes) != 0:
            continue
        for process in processes[: length.value]:
            if process.bytes != ctypes.c_ulonglong(-1).value:  # not available
                found[process.pid] = found.get(process.pid, 0) + process.bytes
    return found


@functools.cache
def _management_library() -> Any:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None
