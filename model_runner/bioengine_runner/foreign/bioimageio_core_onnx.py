"""The private names of bioimageio.core's adapter for ONNX weights.

A module of its own, because importing it imports ONNX Runtime, which other weights do without.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnxruntime
from bioimageio.core.backends.onnx_backend import ONNXModelAdapter

from bioengine_runner.foreign.bioimageio_core import LIBRARY, VERSION, ModelAdapter
from bioengine_runner.library import require

PARTS = {
    "ONNXModelAdapter._init_model_on_device": (ONNXModelAdapter._init_model_on_device, "723c07f39c61"),
    "ONNXModelAdapter._forward_impl": (ONNXModelAdapter._forward_impl, "bc39b8db55a5"),
}

Open = Callable[..., Any]
"""Opens an ONNX Runtime session: takes bytes or a path, and the options of `onnxruntime.InferenceSession`."""


@functools.cache
def check() -> None:
    """Raises LibraryChanged if bioimageio.core is not the version that was reviewed."""
    require(LIBRARY, VERSION, PARTS)


def name_inputs(adapter: ModelAdapter, names: Sequence[str]) -> None:
    """Have the adapter pass the model's inputs to the ONNX session by these names, which are in the order of the inputs."""
    assert isinstance(adapter, ONNXModelAdapter)
    adapter._input_names = list(names)


def feed(adapter: ModelAdapter, arrays: Sequence[Any]) -> dict[str, Any]:
    """The arrays by the names that the ONNX session knows. `arrays`: one for each input of the model, None for one left out."""
    assert isinstance(adapter, ONNXModelAdapter) and adapter._input_names is not None
    return dict(zip(adapter._input_names, arrays))


@contextlib.contextmanager
def wrapped_sessions(wrap: Callable[[Open], Open]) -> Iterator[None]:
    """While the context is open, ONNX Runtime sessions are opened by `wrap(open)`, where `open` is ONNX Runtime's own way."""
    opens = onnxruntime.InferenceSession
    onnxruntime.InferenceSession = wrap(opens)
    try:
        yield
    finally:
        onnxruntime.InferenceSession = opens
