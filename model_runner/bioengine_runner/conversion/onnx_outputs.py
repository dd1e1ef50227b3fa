"""The step that runs converted weights on all samples, with ONNX Runtime as it serves them. It runs no code of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bioengine_contract.package import read_package
from bioengine_contract.weights import CONVERTED

from bioengine_runner.conversion.report import Outcome, Refusal, Report
from bioengine_runner.conversion.samples import read_samples, sizes_of, write_outputs
from bioengine_runner.description import open_description
from bioengine_runner.onnx_sessions import CPU
from bioengine_runner.reasons import in_short


def run(folder: Path, given: Path, output: Path) -> Report:
    """Run `converted.onnx` in `given`, and write the outputs for each sample. Raises Refusal."""
    package = read_package(folder, is_default=True)
    samples = read_samples(package, open_description(package), given)
    try:
        session = onnxruntime.InferenceSession(str(given / CONVERTED), providers=[CPU])
    except Exception as error:  # ONNX Runtime has many kinds
        raise Refusal(f"ONNX Runtime cannot open the converted weights ({in_short(error)})") from None
    names = [value.name for value in session.get_inputs()]
    if expected := [spec.id for spec in package.manifest.inputs if spec.id not in names]:
        raise Refusal(f"the converted weights do not depend on the input '{expected[0]}'")
    for number, arrays in enumerate(samples):
        feed = {spec.id: array for spec, array in zip(package.manifest.inputs, arrays)}
        write_outputs(output, "onnx", number, _outputs(session, feed, number))
    return Report(Outcome.DONE, versions={"onnxruntime": onnxruntime.__version__})


def _outputs(session: Any, feed: dict[str, np.ndarray], number: int) -> list[np.ndarray]:
    try:
        outputs: list[np.ndarray] = session.run(None, feed)
    except Exception as error:
        raise Refusal(f"the converted weights fail on sample {number}, {sizes_of(feed.values())} ({in_short(error)})") from None
    return outputs
