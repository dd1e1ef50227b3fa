"""The answers that the stack has to give: what bioimageio.core makes of whole images, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.stack.harness import ROOT, python


@dataclass(frozen=True)
class Run:
    """One run of a package: its folder, a format of its weights, and an array for each of its inputs."""

    package: Path
    weights: str
    inputs: Sequence[np.ndarray]


def core_outputs(runs: Sequence[Run], folder: Path) -> list[Any]:
    """The outputs of each run by bioimageio.core, whole images in one go: arrays, or the text of its error.

    One process for all runs, since it takes seconds to start. `folder`: a new one, for the arrays.
    """
    folder.mkdir()
    requests = []
    for number, run in enumerate(runs):
        files = [folder / f"input_{number}_{input}.npy" for input in range(len(run.inputs))]
        for file, array in zip(files, run.inputs):
            np.save(file, array)
        requests.append({"model": str(run.package), "weights": run.weights, "inputs": [str(file) for file in files]})
    (folder / "requests.json").write_text(json.dumps(requests))
    out = folder / "out"
    program = [python("runner"), "-m", "tests.packages.reference", str(folder), str(folder / "requests.json"), str(out)]
    subprocess.run(program, cwd=ROOT, check=True)
    results = json.loads((out / "results.json").read_text())
    return [result["error"] if "error" in result else [np.load(out / name) for name in result["outputs"]] for result in results]
