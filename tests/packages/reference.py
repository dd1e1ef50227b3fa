"""The results of bioimageio.core for whole images, which the stack has to return as well.

    <runner environment>/bin/python -m tests.packages.reference PACKAGES_FOLDER REQUESTS.json OUT_FOLDER

REQUESTS.json: `[{"model": id or folder, "inputs": [file.npy, ...], "weights": "onnx"}, ...]`, a file for each input of the model,
with the model's axes. Writes `OUT_FOLDER/<number>_<output>.npy` for each request, and `OUT_FOLDER/results.json`: for each request
`{"outputs": [file name, ...]}`, or `{"error": text}` where bioimageio.core fails.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bioimageio.core import Sample, Tensor, create_prediction_pipeline
from bioimageio.core.axis import AxisInfo
from bioimageio.core.backends import create_model_adapter
from bioimageio.core.digest_spec import get_member_id
from bioimageio.spec import load_model_description
from loguru import logger


@functools.cache
def opened(folder: Path, weights: Any) -> tuple[Any, Any]:  # bioimageio.core names no type of these formats
    """A package's description and its weights, ready to run."""
    description = load_model_description(folder / "rdf.yaml", perform_io_checks=False)
    device = "CPUExecutionProvider" if weights == "onnx" else "cpu"
    return description, create_model_adapter(description, devices=[device], weight_format_priority_order=[weights])


def predict(packages: Path, model: str, weights: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs for whole images, without padding and cropping. No prediction knows of an earlier one."""
    description, adapter = opened(packages / model, weights)
    pipeline = create_prediction_pipeline(description, model_adapter=adapter)
    members = {
        get_member_id(spec): Tensor(array, dims=[AxisInfo.create(axis).id for axis in spec.axes])
        for spec, array in zip(description.inputs, arrays)
    }
    sample = Sample(members=members, stat={}, id=None)
    result = pipeline.predict_sample_without_blocking(sample, skip_input_padding=True, skip_output_cropping=True)
    return [np.asarray(result.members[get_member_id(spec)].data) for spec in description.outputs]


Predict = Callable[[Path, str, str, list[np.ndarray]], list[np.ndarray]]
"""The outputs, of a folder, a model in it, a format of weights, and inputs."""


def answer(predict: Predict, folder: Path, out: Path, number: int, request: dict[str, Any]) -> dict[str, Any]:
    arrays = [np.load(file) for file in request["inputs"]]
    try:
        outputs = predict(folder, request["model"], request["weights"], arrays)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    names = [f"{number}_{output}.npy" for output in range(len(outputs))]
    for name, output in zip(names, outputs):
        np.save(out / name, output)
    return {"outputs": names}


def main(predict: Predict) -> None:
    """Answer the requests that the command line names."""
    folder, requests, out = map(Path, sys.argv[1:])
    warnings.simplefilter("ignore")
    logger.disable("bioimageio")
    out.mkdir(exist_ok=True)
    answers = [answer(predict, folder, out, number, request) for number, request in enumerate(json.loads(requests.read_text()))]
    (out / "results.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(predict)
