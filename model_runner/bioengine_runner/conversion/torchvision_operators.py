"""torchvision beside a torch that its operators in C++ were not built for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def define() -> None:
    """Have torchvision be importable beside any build of torch. Call it before torchvision is imported, once.

    torchvision 0.28 of PyPI is built for CUDA. Beside torch's CPU build its library does not load, and its import then fails
    with "operator torchvision::nms does not exist". The two operators that the import itself names are declared here; models
    that use them (detection) cannot be converted, and fail with torch's own error.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(found.origin).parent / "_C.so"))
    except OSError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
