"""Weight formats: which can be run, in which order they are tried, which run code of the package, and which can be converted."""

from __future__ import annotations

RUNNABLE = ("onnx", "torchscript", "pytorch_state_dict")
"""The formats that can be run, in order of preference: ONNX Runtime is about twice as fast as torch on the CPU."""

RUN_CODE = ("pytorch_state_dict",)
"""Formats that need Python code: the model's architecture, from a file of the package or from a library."""

CONVERTIBLE = ("pytorch_state_dict", "tensorflow_saved_model_bundle", "keras_hdf5")
"""Formats from which the store makes ONNX weights where a package has no others, in order of preference: state dicts are traced,
which finds more mistakes, in a small environment; a SavedModel is a finished graph, a Keras file has to become one first."""

USED = (*RUNNABLE, *(name for name in CONVERTIBLE if name not in RUNNABLE))
"""The formats whose files the store keeps."""

CONVERTED = "converted.onnx"
"""The file, beside those of a package, with the ONNX weights that the store has made from weights of another format."""

CONVERTED_OPSET = 17
"""The ONNX operator set of these weights."""
