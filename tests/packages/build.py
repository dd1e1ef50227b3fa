"""Build the small packages of the tests: real descriptions, real ONNX and TorchScript weights, real test tensors.

    <runner environment>/bin/python -m tests.packages.build FOLDER [--all-kinds | --requests | --failing]

makes `FOLDER/<id>/` for each: those that every home of the tests has and those of `bioengine bench`, or with `--all-kinds` the
many others, one for each kind of model that there is, with `--requests` those for what a client may send and be told, or with
`--failing` those that cannot be opened, or run. Runs in the runner's environment, which has torch and onnx. Test outputs are
computed with NumPy from formulas, not with the code under test.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tests.packages.axes import AXES
from tests.packages.bench import BENCH
from tests.packages.failing import FAILING
from tests.packages.old import OLD
from tests.packages.processing import PROCESSING
from tests.packages.requests import REQUESTS
from tests.packages.sizes import SIZES
from tests.packages.usual import USUAL

ALL_KINDS = (*SIZES, *AXES, *OLD, *PROCESSING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    groups: dict[str, Any] = {"all_kinds": ALL_KINDS, "requests": REQUESTS, "failing": FAILING}
    for name in groups:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    arguments = parser.parse_args()
    for build in next((group for name, group in groups.items() if getattr(arguments, name)), (*USUAL, *BENCH)):
        build(arguments.folder)


if __name__ == "__main__":
    main()
