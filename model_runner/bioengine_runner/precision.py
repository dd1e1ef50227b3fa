"""BIOENGINE_PRECISION: how exactly models compute on a card. On the CPU it makes no difference.

`exact`: 32-bit floats are 32-bit floats. `fast`: their products may be rounded to TensorFloat-32 (10 bits of mantissa), and
images may be kept with their channels last. On one H200, results then differ by up to 2e-3 of 1, and 1024x1024 takes a third of
the time.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["exact", "fast"]


def cuda_options(precision: Precision) -> dict[str, str]:
    """Options of ONNX Runtime's CUDA provider.

    HEURISTIC: a convolution's algorithm is looked up. The default, EXHAUSTIVE, tries all of them whenever a shape is new to a
    session, which takes 70 to 250 ms in place of 33 and gives a slower one (one H200, a U-Net).
    """
    options = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    return options if precision == "exact" else {**options, "use_tf32": "1", "prefer_nhwc": "1"}


def set_torch(precision: Precision) -> None:
    """Have torch compute so from now on, in the whole process."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "fast"
