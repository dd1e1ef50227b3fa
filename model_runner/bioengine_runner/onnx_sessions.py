"""How ONNX Runtime opens a package's weights here. bioimageio.core 0.11, which opens them, has no arguments for this."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_contract.package import Package

from bioengine_runner.gpu import card_memory
from bioengine_runner.precision import Precision, cuda_options
from bioengine_runner.sessions_by_shape import SessionsByShape

logger = logging.getLogger(__name__)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

# Memory that must be free on a card, in addition to that for the weights, before a further session is opened.
_FREE = 2 << 30  # bytes


@contextlib.contextmanager
def opening_sessions(package: Package, precision: Precision) -> Iterator[None]:
    """While the context is open, sessions are opened as follows.

    - Their threads sleep when there is nothing to do. By default, they look for work for some 40 ms after a run, and take this
      time from other models and from the answer on its way to the client.
    - If tensors are in other files, the session is opened from the file, because ONNX Runtime looks for them beside it.
      bioimageio.core opens it from bytes, unless one file is declared as `external_data`, which format 0.4 cannot do. The files
      have been verified by then.
    - On a card: with the CUDA libraries of this environment, with the given precision, and with sessions for several shapes. If a
      run fails there, ONNX Runtime must not silently use the CPU.
    """
    import onnxruntime

    from bioengine_runner.foreign import bioimageio_core_onnx

    bioimageio_core_onnx.check()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    weights = package.manifest.weights.get("onnx")
    file = None if weights is None else package.folder / weights.source
    is_in_files = weights is not None and len(weights.files) > 1

    def as_here(open_session: bioimageio_core_onnx.Open) -> bioimageio_core_onnx.Open:
        def opened(content: Any, providers: Any = None, **others: Any) -> Any:
            if providers != [CUDA]:
                content = file if is_in_files and isinstance(content, bytes) else content
                return open_session(content, sess_options=options, providers=providers, **others)
            preload_libraries()
            on_card = functools.partial(
                _on_card, open_session, file or content, sess_options=options,
                providers=[(CUDA, cuda_options(precision))], **others,
            )  # fmt: skip
            return SessionsByShape(on_card(), on_card, lambda: _has_room(file))

        return opened

    with bioimageio_core_onnx.wrapped_sessions(as_here):
        yield


@functools.cache
def preload_libraries() -> None:
    """Load the CUDA and cuDNN libraries of this environment's packages, so that ONNX Runtime finds them.

    libonnxruntime_providers_cuda.so (1.31) does not know where they are. On a machine that has only NVIDIA's driver, a session
    opens nevertheless, but each run fails ("cuDNN is unavailable").
    """
    import onnxruntime

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            onnxruntime.preload_dlls()
    except Exception as error:
        logger.warning("CUDA's libraries of this environment were not loaded: %s", error)
        import torch  # noqa: F401  # which loads them as well
    if said.getvalue():
        logger.warning("Of CUDA's libraries, ONNX Runtime says: %s", " ".join(said.getvalue().split())[:500])


def give_back(session: Any, feed: Mapping[str, np.ndarray], device: str) -> None:
    """Return the memory that a session keeps for images. ONNX Runtime does this only at the end of a run, so it runs a small one.

    Args:
        session: the ONNX Runtime session.
        feed: a small image, by the names of the session's inputs.
        device: where the session computes.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    arena = device.replace("cuda", "gpu") if device.startswith("cuda") else "cpu:0"
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    for each in session.all if isinstance(session, SessionsByShape) else [session]:
        each.run(None, feed, options)


def _on_card(open_session: Any, content: Any, **options: Any) -> Any:
    session = open_session(content, **options)
    session.disable_fallback()
    return session


def _has_room(file: Path | None) -> bool:
    found = card_memory(0)
    return found is not None and found[0] > _FREE + 2 * (file.stat().st_size if file is not None else 0)
