"""BIOENGINE_PRECISION: how exactly models compute on a card. It has no effect on the CPU.

`exact`: with 32-bit floats. `fast`: products of 32-bit floats may be rounded to TensorFloat-32 (10 bits of mantissa), and images
are kept with their channels last. On one H200, results with TensorFloat-32 differed by up to 2e-3 of 1, and 1024x1024 took a
third of the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

Precision = Literal["exact", "fast"]

# A convolution in a traced graph, and the position of its argument `allow_tf32`.
_CONVOLUTION, _ALLOW_TF32 = "aten::_convolution", 12


def cuda_options(precision: Precision) -> dict[str, str]:
    """The options of ONNX Runtime's CUDA provider.

    HEURISTIC looks up an algorithm for each convolution. The default, EXHAUSTIVE, tries all algorithms for each new shape: on one
    H200, this took 70 to 250 ms for a U-Net instead of 33 ms, and found slower algorithms.
    """
    options = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    return options if precision == "exact" else {**options, "use_tf32": "1", "prefer_nhwc": "1"}


@contextlib.contextmanager
def opening_torch(precision: Precision) -> Iterator[None]:
    """Set the precision of torch for the whole process, from now on, and of the TorchScript that is loaded meanwhile."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "fast"
    load = torch.jit.load

    def loaded(*arguments: Any, **others: Any) -> Any:
        script = load(*arguments, **others)
        if precision == "exact":
            _forbid_tf32(script)
        return script

    torch.jit.load = loaded
    try:
        yield
    finally:
        torch.jit.load = load


def _forbid_tf32(script: Any) -> None:
    """Have each convolution of a TorchScript module compute with 32-bit floats.

    A traced one carries whether TensorFloat-32 was allowed when it was traced, usually yes, whatever torch's settings say now.
    """
    for module in script.modules():
        try:
            graph = module.graph
        except RuntimeError:  # it only holds others
            continue
        for node in graph.findAllNodes(_CONVOLUTION):
            graph.setInsertPoint(node)
            node.replaceInput(_ALLOW_TF32, graph.insertConstant(False))
