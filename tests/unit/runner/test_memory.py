"""What a process holds while it works on an image, and after it: in processes of their own, with a U-Net of the usual size.

LARGE_SIDE=4500 makes the large image one that would take 9 GB in one piece, and minutes of computing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bioengine_runner.reasons import in_short
from bioengine_runner.tiling.budget import MAX_BYTES
from bioengine_runner.tiling.exhausted import is_about_memory, is_too_large

ROOT = Path(__file__).resolve().parents[3]
UNET = ROOT / "server" / "bioengine_server" / "bench" / "packages" / "bench-unet"

LARGE = int(os.environ.get("LARGE_SIDE", "3000"))

_MB = 1 << 20


def held(side: int, after: float) -> dict[str, int]:
    """Bytes at rest, at the peak beyond that, and so many seconds after a square image."""
    command = [sys.executable, "-m", "tests.unit.runner.large_image", str(UNET), str(side), str(after)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_memory_of_an_image_comes_back() -> None:
    found = held(side=720, after=4)
    assert 200 * _MB < found["peak"] < 1500 * _MB
    assert found["after"] < found["at_rest"] + 50 * _MB


@pytest.mark.extended
def test_a_large_image_stays_within_the_bound_and_its_memory_is_back_within_a_minute() -> None:
    found = held(side=LARGE, after=60)
    assert found["peak"] < min(MAX_BYTES, 2500 * _MB), "in one piece it takes 4 GB"
    assert found["after"] < found["at_rest"] + 50 * _MB


def test_memory_that_runs_out_leads_to_smaller_tiles_which_are_remembered() -> None:
    """With what ONNX Runtime really says on the CPU."""
    package = ROOT / "server" / "bioengine_server" / "packages" / "drawn-nuclei"
    command = [sys.executable, "-m", "tests.unit.runner.tight_memory", str(package), "1024", str(175 * _MB)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["outputs"] == [[1, 2, 1024, 1024]] * 2
    first, second = found["failed"]
    assert first > 0 and second == 0


@pytest.mark.parametrize(
    "text",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'a' Status "
        "Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal("
        "size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 68719476736",
        "[ONNXRuntimeError] : 1 : FAIL : Available memory of 1073741824 is smaller than requested bytes of 2147483648",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc((void**)&p, size);",
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.73 GiB",
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 "
        "bytes. Error code 12 (Cannot allocate memory)",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Unable to allocate 20.0 GiB for an array with shape (1, 2) and data type float32",
    ],
)
def test_memory_that_runs_out_is_known_whoever_says_it(text: str) -> None:
    assert is_about_memory(RuntimeError(text)) and is_too_large(RuntimeError(text))


def test_what_cudnn_cannot_count_is_too_large_and_no_matter_of_memory() -> None:
    for text in (
        "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0 ; expr=cudnn",
        "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false.",
    ):
        assert is_too_large(RuntimeError(text)) and not is_about_memory(RuntimeError(text))
    assert is_too_large(MemoryError()) and is_about_memory(MemoryError())


@pytest.mark.parametrize(
    "text", ["The kernel is larger than the image", "Got invalid dimensions for input: x", "division by zero"]
)
def test_other_failures_do_not_lead_to_tiles(text: str) -> None:
    assert not is_too_large(ValueError(text)) and in_short(ValueError(text)) == text
