"""Start the test of a stored package, confined like a model in Triton: it can read the package and write its working folder.

    python -m bioengine_runner.confined_test PACKAGE_FOLDER WORKING_FOLDER [--halo] FORMAT...

The report is `report.json` in the working folder (`bioengine_runner.package_test`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bioengine_runner.checks import StartError
from bioengine_runner.confinement.kernel import die_with_parent
from bioengine_runner.confinement.reach import of_package_test
from bioengine_runner.confinement.start import confine_as_set, inherited_variables
from bioengine_runner.rundir import ACCELERATOR, PRECISION, TRUSTED_MODELS

REPORT = "report.json"


def main() -> None:
    package, working, *formats = sys.argv[1:]
    die_with_parent()
    os.umask(0o077)
    accelerator = os.environ.get(ACCELERATOR, "auto")
    variables = {
        **inherited_variables(accelerator),
        "PATH": os.environ.get("PATH", ""),
        "HOME": working,
        "TMPDIR": working,
        "BIOIMAGEIO_CACHE_PATH": str(Path(working) / "cache"),
        TRUSTED_MODELS: os.environ.get(TRUSTED_MODELS, ""),
        ACCELERATOR: accelerator,
        PRECISION: os.environ.get(PRECISION, "exact"),
    }
    accesses = of_package_test(Path(package), Path(working))
    try:
        cuda_with = None if accelerator == "cpu" else variables
        confine_as_set(os.environ.get("BIOENGINE_CONFINE", "auto"), accesses, cuda_with=cuda_with)
    except StartError as error:
        sys.exit(str(error))
    arguments = [sys.executable, "-P", "-m", "bioengine_runner.package_test", package, str(Path(working) / REPORT), *formats]
    os.execve(sys.executable, arguments, variables)


if __name__ == "__main__":
    main()
