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


Outputs = list[np.ndarray] | str
"""Of one run; the text of its error where it failed."""


def core_outputs(runs: Sequence[Run], folder: Path) -> list[Any]:
    """The outputs of each run by bioimageio.core, whole images in one go. `folder`: a new one, for the arrays."""
    return _outputs("tests.packages.reference", folder, [(str(run.package), run) for run in runs], folder)


def outputs_in_process(runs: Sequence[Run], folder: Path, store: Path) -> list[Outputs]:
    """The outputs of each run by the server's and the runner's code in one process, of packages in a store."""
    return _outputs("tests.unit.runner.in_process", store, [(run.package.name, run) for run in runs], folder)


def _outputs(program: str, models: Path, runs: Sequence[tuple[str, Run]], folder: Path) -> list[Outputs]:
    """By a program in the runner's environment. One process for all runs, since it takes seconds to start."""
    if not runs:
        return []
    folder.mkdir()
    requests = []
    for number, (model, run) in enumerate(runs):
        files = [folder / f"input_{number}_{input}.npy" for input in range(len(run.inputs))]
        for file, array in zip(files, run.inputs):
            np.save(file, array)
        requests.append({"model": model, "weights": run.weights, "inputs": [str(file) for file in files]})
    (folder / "requests.json").write_text(json.dumps(requests))
    out = folder / "out"
    command = [python("runner"), "-m", program, str(models), str(folder / "requests.json"), str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads((out / "results.json").read_text())
    return [result["error"] if "error" in result else [np.load(out / name) for name in result["outputs"]] for result in results]
