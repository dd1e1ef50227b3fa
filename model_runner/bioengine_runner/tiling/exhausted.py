"""Which errors mean that an image was too large for the device, so that smaller tiles may work."""

from __future__ import annotations

import re

_MEMORY = re.compile(
    # Of Python, NumPy and C++; of torch on the CPU and on a card; of ONNX Runtime's arenas and their limit; of cuDNN and cuBLAS.
    r"out of memory|unable to allocate|bad_alloc|bad allocation|can't allocate memory|cannot allocate memory|not enough memory"
    r"|failed to allocate|available memory of .* is smaller than requested|memory allocation (?:failed|failure)"
    r"|(?:CUDNN|CUBLAS|CUFFT|CUSOLVER)_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE | re.DOTALL,
)

# Some libraries count elements in 32 bits: cuDNN refuses 8192x8192 in a U-Net with CUDNN_STATUS_NOT_SUPPORTED, even if there is
# enough memory.
_SIZE = re.compile(r"CUDNN_STATUS_NOT_SUPPORTED|32-?bit ind|canUse32BitIndexMath", re.IGNORECASE)


def is_too_large(error: BaseException) -> bool:
    """Whether smaller tiles may work where this error occurred."""
    return isinstance(error, MemoryError) or is_about_memory(error) or bool(_SIZE.search(str(error)))


def is_about_memory(error: BaseException) -> bool:
    """Whether this error means that there was not enough memory."""
    return isinstance(error, MemoryError) or bool(_MEMORY.search(str(error)))
