"""Check the files that would become the weights of an app, confined like a model in Triton.

    python -m bioengine_runner.apps.check APP FOLDER WORKING_FOLDER

`FOLDER` has the files with the names that they will have in the app. If they
cannot be used, prints why on stderr and exits with 1.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bioengine_contract.errors import BioEngineError

from bioengine_runner.checks import StartError
from bioengine_runner.confinement.kernel import die_with_parent
from bioengine_runner.confinement.reach import of_package_test, packages_on_path
from bioengine_runner.confinement.start import confine_as_set


def main() -> None:
    app, folder, working = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    die_with_parent()
    os.umask(0o077)
    os.environ.update(HOME=str(working), TMPDIR=str(working))
    try:
        # This environment uses packages of another one.
        accesses = [*of_package_test(folder, working), *packages_on_path()]
        confine_as_set(os.environ.get("BIOENGINE_CONFINE", "auto"), accesses)
        _check(app, folder)
    except (BioEngineError, StartError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _check(app: str, folder: Path) -> None:
    """Raises AppWeightsRefused."""
    if app == "stardist":
        from bioengine_runner.apps.stardist_network import open_stardist

        open_stardist(folder)
    elif app == "cellpose":
        from bioengine_runner.apps.cellpose_network import read_weights, weight_files

        for file in weight_files(folder).values():
            read_weights(file)
    else:
        from bioengine_runner.apps.classifier_network import NETWORK, open_classifier

        open_classifier(folder / NETWORK)


if __name__ == "__main__":
    main()
