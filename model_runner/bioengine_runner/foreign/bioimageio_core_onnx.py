"""The private names of bioimageio.core's adapter for ONNX weights; apart, since it brings ONNX Runtime."""

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
    """Raises LibraryChanged where bioimageio.core is not the one that this module knows."""
    require(LIBRARY, VERSION, PARTS)


def name_inputs(adapter: ModelAdapter, names: Sequence[str]) -> None:
    """Have ONNX weights get each input of the model by these names, in the order of its inputs."""
    assert isinstance(adapter, ONNXModelAdapter)
    adapter._input_names = list(names)


def feed(adapter: ModelAdapter, arrays: Sequence[Any]) -> dict[str, Any]:
    """What ONNX weights get of arrays, one for each input of the model in their order; None for one that is left out."""
    assert isinstance(adapter, ONNXModelAdapter) and adapter._input_names is not None
    return dict(zip(adapter._input_names, arrays))


@contextlib.contextmanager
def wrapped_sessions(wrap: Callable[[Open], Open]) -> Iterator[None]:
    """Have sessions be opened by `wrap(what opens one)` while the context is open."""
    opens = onnxruntime.InferenceSession
    onnxruntime.InferenceSession = wrap(opens)
    try:
        yield
    finally:
        onnxruntime.InferenceSession = opens
