"""The formats of weights: which can be run, in which order they are tried, and which bring code."""

from __future__ import annotations

RUNNABLE = ("onnx", "torchscript", "pytorch_state_dict")
"""In the order of preference: ONNX Runtime is about twice as fast as torch on the CPU."""

RUN_CODE = ("pytorch_state_dict",)
"""Opened by Python code: the model's architecture, from a file of the package or a library by name."""
