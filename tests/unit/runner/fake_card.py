"""A card that is not there: NVIDIA's driver and its management library, and ONNX Runtime's sessions on it, as fakes.

They say what the real ones said on one H200, and what NVIDIA documents for others. The fake sessions compute on the CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bioengine_runner import gpu, onnx_sessions
from bioengine_runner.gpu import CudaCard

H200 = CudaCard("NVIDIA H200", (9, 0), 150 << 30, is_virtual=False)
CUDA_13 = 13_000

NO_CUDNN = "[ONNXRuntimeError] : 1 : FAIL : CUDA failure: cuDNN is unavailable: libcudnn.so.9 cannot be opened"
TOO_LARGE = "[ONNXRuntimeError] : 1 : FAIL : cuDNN error CUDNN_STATUS_NOT_SUPPORTED"
OUT_OF_MEMORY = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"


def _set(reference: Any, value: Any) -> int:
    reference._obj.value = value
    return 0


@dataclass
class FakeCard:
    """What the fakes say, and what was asked of them."""

    card: CudaCard = H200
    cuda_version: int = CUDA_13
    used: int = 1 << 30
    """Bytes, of everybody."""
    by_process: dict[int, int] = field(default_factory=dict)
    """What NVML says of processes."""
    fails: Callable[[tuple[int, ...]], str] = lambda shape: ""
    """What a run with an image of a shape fails with."""
    opened: list[Any] = field(default_factory=list)
    """The sessions, and "libraries" when they were loaded."""

    # --- libcuda

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        return _set(version, self.cuda_version)

    def cuDeviceGetCount(self, count: Any) -> int:
        return _set(count, 1)

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return _set(device, index)

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:
        name.value = self.card.name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:
        return _set(memory, self.card.memory)

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
        return _set(value, self.card.capability[attribute - 75])

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        return _set(context, 1)

    def cuCtxPushCurrent_v2(self, context: Any) -> int:
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        _set(free, self.card.memory - self.used)
        return _set(total, self.card.memory)

    # --- libnvidia-ml

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        return _set(count, 1)

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:
        return _set(device, 1)

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.used = self.card.memory, self.used
        memory._obj.free = self.card.memory - self.used
        return 0

    def nvmlDeviceGetName(self, device: Any, name: Any, length: int) -> int:
        name.value = self.card.name.encode()
        return 0

    def nvmlDeviceGetVirtualizationMode(self, device: Any, mode: Any) -> int:
        return _set(mode, 2 if self.card.is_virtual else 0)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, length: Any, processes: Any) -> int:
        for process, (pid, size) in zip(processes, self.by_process.items()):
            process.pid, process.bytes = pid, size
        return _set(length, len(self.by_process))

    # --- ONNX Runtime

    def install(self, patch: pytest.MonkeyPatch) -> FakeCard:
        """Have this process find the card."""
        real_library, real_session = ctypes.CDLL, onnxruntime.InferenceSession

        def library(name: str | None, *arguments: Any, **options: Any) -> Any:
            return self if name in ("libcuda.so.1", "libnvidia-ml.so.1") else real_library(name, *arguments, **options)

        def session(content: Any, providers: Any = None, **options: Any) -> Any:
            if not isinstance(providers[0], tuple):
                return real_session(content, providers=providers, **options)
            self.opened.append(FakeSession(self, real_session(content, providers=["CPUExecutionProvider"]), providers[0][1]))
            return self.opened[-1]

        patch.setattr(ctypes, "CDLL", library)
        patch.setattr(onnxruntime, "InferenceSession", session)
        patch.setattr(onnxruntime, "get_available_providers", lambda: [onnx_sessions.CUDA, onnx_sessions.CPU])
        patch.setattr(onnxruntime, "preload_dlls", lambda: self.opened.append("libraries"))
        for cached in (gpu._context, gpu._management_library, onnx_sessions.preload_libraries):
            cached.cache_clear()
        return self

    @property
    def sessions(self) -> list[FakeSession]:
        return [session for session in self.opened if session != "libraries"]


class FakeSession:
    """A session on the card, which keeps one plan, as ONNX Runtime 1.31 does. It computes on the CPU."""

    def __init__(self, card: FakeCard, real: Any, options: dict[str, str]) -> None:
        self._card = card
        self._real = real
        self.options = options
        self.shapes: list[tuple[int, ...]] = []
        self.plans = 0
        self.shrinks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return [onnx_sessions.CUDA, onnx_sessions.CPU]

    def disable_fallback(self) -> None:
        pass

    def run(self, outputs: Any, feed: Mapping[str, np.ndarray], options: Any = None) -> Any:
        shape = next(iter(feed.values())).shape
        self.plans += not self.shapes or self.shapes[-1] != shape
        self.shapes.append(shape)
        if options is not None:
            assert options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "gpu:0"
            self.shrinks += 1
        if reason := self._card.fails(shape):
            raise RuntimeError(reason)
        return self._real.run(outputs, feed)
