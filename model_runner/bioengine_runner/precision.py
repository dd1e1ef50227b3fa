"""BIOENGINE_PRECISION: how exactly models compute on a card. It has no effect on the CPU.

`exact`: with 32-bit floats. `fast`: products of 32-bit floats may be rounded to TensorFloat-32 (10 bits of mantissa), and images
are kept with their channels last. On one H200, results with TensorFloat-32 differed by up to 2e-3 of 1, and 1024x1024 took a
third of the time.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["exact", "fast"]


def cuda_options(precision: Precision) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider.

    HEURISTIC looks up an algorithm for each convolution. The default, EXHAUSTIVE, tries all algorithms for each new shape: on one
    H200, this took 70 to 250 ms for a U-Net instead of 33 ms, and found slower algorithms.
    """
    options = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    return options if precision == "exact" else {**options, "use_tf32": "1", "prefer_nhwc": "1"}


def set_torch(precision: Precision) -> None:
    """Set the precision of torch for the whole process, from now on."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "fast"
