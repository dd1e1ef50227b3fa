"""The network of `bestfitting-inceptionv3-single-cell`, as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from bioengine_runner.apps.errors import AppWeightsRefused
from bioengine_runner.apps.onnx_network import open_network
from bioengine_runner.reasons import in_short

NETWORK = "network.onnx"
_INPUT, _OUTPUTS = (4, 128, 128), {"classes": 19, "features": 2048}


def open_classifier(file: Path) -> onnxruntime.InferenceSession:
    """Open a network and run it once. Raises AppWeightsRefused."""
    expected = "the ONNX file of the network of the same name: 4 channels of 128x128 pixels in, 19 classes and 2048 features out"
    try:
        session = open_network(file)
        outputs = run_classifier(session, np.zeros(_INPUT, np.float32))
    except Exception as error:
        raise AppWeightsRefused(file, "the classifier", f"it cannot be run ({in_short(error)})", expected) from error
    if (sizes := {name: output.size for name, output in outputs.items()}) != _OUTPUTS:
        raise AppWeightsRefused(file, "the classifier", f"its outputs have the sizes {list(sizes.values())}", expected)
    return session


def run_classifier(session: onnxruntime.InferenceSession, image: np.ndarray) -> dict[str, np.ndarray]:
    outputs = session.run(None, {session.get_inputs()[0].name: image[np.newaxis]})
    return {name: np.asarray(output, np.float32).reshape(-1) for name, output in zip(_OUTPUTS, outputs)}
