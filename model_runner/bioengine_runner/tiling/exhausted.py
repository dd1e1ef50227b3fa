"""Which errors mean that an image was too large for the device, so that smaller tiles may do."""

from __future__ import annotations

import re

_MEMORY = re.compile(
    # Python, NumPy, C++; torch on the CPU and on a card; ONNX Runtime's arenas, its limit of them; cuDNN, cuBLAS.
    r"out of memory|unable to allocate|bad_alloc|bad allocation|can't allocate memory|cannot allocate memory|not enough memory"
    r"|failed to allocate|available memory of .* is smaller than requested|memory allocation (?:failed|failure)"
    r"|(?:CUDNN|CUBLAS|CUFFT|CUSOLVER)_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE | re.DOTALL,
)

# Libraries count elements in 32 bits: cuDNN refuses 8192x8192 in a U-Net with CUDNN_STATUS_NOT_SUPPORTED, whatever there is of
# memory.
_SIZE = re.compile(r"CUDNN_STATUS_NOT_SUPPORTED|32-?bit ind|canUse32BitIndexMath", re.IGNORECASE)


def is_too_large(error: BaseException) -> bool:
    """Whether smaller tiles may do what failed with `error`."""
    return isinstance(error, MemoryError) or is_about_memory(error) or bool(_SIZE.search(str(error)))


def is_about_memory(error: BaseException) -> bool:
    """Whether there was not enough memory."""
    return isinstance(error, MemoryError) or bool(_MEMORY.search(str(error)))
