"""How an app opens an ONNX network."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def open_network(file: Path) -> onnxruntime.InferenceSession:
    """A session that computes on the CPU. Raises what ONNX Runtime raises."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the processors to others between runs
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
