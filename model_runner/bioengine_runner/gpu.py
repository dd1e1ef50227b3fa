"""What NVIDIA's driver says, asked of its own libraries, so that nothing heavy is imported for it."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass
from typing import Any

from bioengine_contract.operations import Card

_MAX_PROCESSES = 512  # on one card
_MAX_NAME = 256  # bytes
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_VIRTUAL = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class CudaCard:
    """A card as CUDA's driver describes it. `capability`: the compute capability, such as (9, 0). `is_virtual`: it is a vGPU."""

    name: str
    capability: tuple[int, int]
    memory: int
    """Bytes in all."""
    is_virtual: bool


def gpus() -> int:
    """How many GPUs the driver has for this process."""
    return 0 if (driver := _driver()) is None else _count(driver)


def start_cuda() -> int:
    """Start CUDA in this process, for the first card that it sees. The driver then makes sockets and threads.

    Returns 0, also if there is no driver or no card, or CUDA's number of what is wrong.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    error = int(driver.cuInit(0))
    if error == 0 and _count(driver):
        device, context = ctypes.c_int(), ctypes.c_void_p()
        error = driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    return 0 if error == _NO_DEVICE else int(error)


def cuda_cards() -> list[CudaCard]:
    """The cards that CUDA's driver has for this process."""
    if (driver := _driver()) is None:
        return []
    virtual = _virtual_cards()
    return [_cuda_card(driver, index, index in virtual) for index in range(_count(driver))]


def cuda_version() -> tuple[int, int]:
    """The newest CUDA version that the driver supports; (0, 0) if there is no driver."""
    version = ctypes.c_int()
    if (driver := _driver()) is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return 0, 0
    return version.value // 1000, version.value % 1000 // 10


def card_memory(index: int) -> tuple[int, int] | None:
    """A card's free memory and its total memory, in bytes; None if the driver does not report them.

    The question needs a CUDA context, which takes some hundred MB of the card if the process has none yet: only a process that
    computes on the card should ask. The answer is correct for virtual GPUs too, unlike that of NVML.
    """
    context, before = _context(index), ctypes.c_void_p()
    if context is None or (driver := _driver()) is None or driver.cuCtxPushCurrent_v2(context) != 0:
        return None
    try:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        works = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        return (free.value, total.value) if works else None
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(before))


def _driver() -> Any:
    """CUDA's driver, initialized; None if there is no driver or no card."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def _count(driver: Any) -> int:
    count = ctypes.c_int()
    return count.value if driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _cuda_card(driver: Any, index: int, is_virtual: bool) -> CudaCard:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(_MAX_NAME)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, _MAX_NAME, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return CudaCard(name.value.decode(errors="replace"), (capability[0], capability[1]), memory.value, is_virtual)


@functools.cache
def _context(index: int) -> Any:
    """This process's CUDA context on a card, which the frameworks use too. It is kept until the process ends."""
    if (driver := _driver()) is None:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    works = driver.cuDeviceGet(ctypes.byref(device), index) == 0
    return context if works and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0 else None


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

    Where CUDA_VISIBLE_DEVICES has numbers, those alone; none where it is empty, as CUDA understands it.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    chosen = {int(number) for number in (visible or "").split(",") if number.strip().isdecimal()}
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

    In a container it may name processes by other ids than they have there, and of a virtual GPU what it says is wrong.
    """
    library = _management_library()
    if library is None:
        return {}
    found: dict[int, int] = {}
    for device in _managed(library):
        length, processes = ctypes.c_uint(_MAX_PROCESSES), (_ProcessMemory * _MAX_PROCESSES)()
        if _is_virtual(library, device):
            continue
        if library.nvmlDeviceGetComputeRunningProcesses_v3(device, ctypes.byref(length), processes) != 0:
            continue
        for process in processes[: length.value]:
            if process.bytes != ctypes.c_ulonglong(-1).value:  # not available
                found[process.pid] = found.get(process.pid, 0) + process.bytes
    return found


def _virtual_cards() -> set[int]:
    library = _management_library()
    if library is None:
        return set()
    return {index for index, device in enumerate(_managed(library)) if _is_virtual(library, device)}


def _managed(library: Any) -> list[ctypes.c_void_p]:
    """NVML's handles of the cards."""
    count, devices = ctypes.c_uint(), []
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0:
            devices.append(device)
    return devices


def _is_virtual(library: Any, device: ctypes.c_void_p) -> bool:
    mode = ctypes.c_int()
    return library.nvmlDeviceGetVirtualizationMode(device, ctypes.byref(mode)) == 0 and mode.value == _VIRTUAL


@functools.cache
def _management_library() -> Any:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None
