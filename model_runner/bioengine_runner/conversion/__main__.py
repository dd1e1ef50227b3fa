"""A step of a conversion, started by `bioengine_runner.conversion.start`.

    python -I -m bioengine_runner.conversion STEP PACKAGE GIVEN OUTPUT

STEP is the format of the package's own weights, or `onnx` to run those that were made of them.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from bioengine_runner.confinement.alone import be_alone
from bioengine_runner.conversion.libraries import import_step
from bioengine_runner.conversion.report import REFUSED_CALL, Outcome, Refusal, Report

# The module of each step; its `run(package, given, output)` returns the Report, or raises Refusal or whatever a package raises.
_STEPS = {
    "pytorch_state_dict": "bioengine_runner.conversion.pytorch",
    "tensorflow_saved_model_bundle": "bioengine_runner.conversion.saved_model",
    "keras_hdf5": "bioengine_runner.conversion.keras",
    "onnx": "bioengine_runner.conversion.onnx_outputs",
}


def main() -> None:
    step, package, given, output = sys.argv[1], *map(Path, sys.argv[2:])
    # Before anything else is imported.
    be_alone(os.open(output / REFUSED_CALL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        report = import_step(_STEPS[step]).run(package, given, output)
    except BaseException as error:  # a package may raise anything, and end the process
        traceback.print_exc()
        report = _failure(error)
    report.write(output)


def _failure(error: BaseException) -> Report:
    from bioengine_runner.reasons import in_short
    from bioengine_runner.tiling.exhausted import is_about_memory

    if isinstance(error, Refusal):
        return Report(error.outcome, error.detail)
    causes = list(_causes(error))
    if missing := next((each.name for each in causes if isinstance(each, ModuleNotFoundError) and each.name), None):
        return Report(Outcome.NEEDS_MODULE, missing)
    if any(isinstance(each, MemoryError) or is_about_memory(each) for each in causes):
        return Report(Outcome.TOO_LITTLE_MEMORY)
    return Report(Outcome.FAILED, ": ".join(map(in_short, causes)))


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error, what has caused it, and so on."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    return causes


if __name__ == "__main__":
    main()
