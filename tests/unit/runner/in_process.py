"""What the server and the model runner make of requests, by the same code but for Hypha and Triton: all in this one process.

    <runner environment>/bin/python -m tests.unit.runner.in_process STORE_FOLDER REQUESTS.json OUT_FOLDER

The files are those of `tests.packages.reference`, with ids for models.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from bioengine_contract.package import Package
from bioengine_contract.request import RunRequest
from bioengine_contract.run import Run
from bioengine_contract.store import resolve
from bioengine_runner.inference import Pipeline
from bioengine_runner.rundir import Boot

from tests.packages.reference import main


@functools.cache
def opened(store: Path, id: str, weights: str) -> tuple[Package, Pipeline]:
    package = resolve(store, id)
    return package, Pipeline(package, [weights], Boot(store, store, run_timeout=60, debug=False, accelerator="cpu"))


def predict(store: Path, id: str, weights: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs that a client would get, but for the dtypes, which a model's own process sees to."""
    package, pipeline = opened(store, id, weights)
    request = RunRequest.from_client({"model_id": id, "inputs": arrays, "weight_format": weights})
    run = Run.prepare(package, request, frozenset())
    (outputs,) = pipeline.predict_together([run.arrays])
    if isinstance(outputs, BaseException):
        raise outputs
    result = run.result("", outputs, 0.0, pipeline.opened.weight_format, pipeline.opened.device)
    assert result["weight_format"] == weights
    return list(result["outputs"])


if __name__ == "__main__":
    main(predict)
