"""Weight formats: which can be run, in which order they are tried, and which run code of the package."""

from __future__ import annotations

RUNNABLE = ("onnx", "torchscript", "pytorch_state_dict")
"""The formats that can be run, in order of preference: ONNX Runtime is about twice as fast as torch on the CPU."""

RUN_CODE = ("pytorch_state_dict",)
"""Formats that need Python code: the model's architecture, from a file of the package or from a library."""

CONVERTED = "converted.onnx"
"""The file, beside those of a package, with the ONNX weights that the store has made from weights of another format."""

CONVERTED_OPSET = 17
"""The ONNX operator set of these weights."""
