"""Run bioimageio.core's own test on a stored package, in the environment that serves it.

    python -m bioengine_runner.package_test PACKAGE_FOLDER REPORT.json FORMAT...

Writes `{"<weights format>": {"status": "passed" | "failed", "errors": [str, ...], "summary": {...}}}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from bioimageio.core import test_description
from bioimageio.spec import InvalidDescr, load_description

from bioengine_runner.rundir import TRUSTED_MODELS
from bioengine_runner.store import manifest
from bioengine_runner.store.trust import check_trust, parse_trusted
from bioengine_runner.store.verify import verify_package


def test_package(folder: Path, weights_format: str) -> dict[str, Any]:
    """The outcome of the reference test of one of a package's weights."""
    # Without the checks that want every file: only the weights that can be run are stored.
    description: Any = load_description(folder / "rdf.yaml", perform_io_checks=False)
    if isinstance(description, InvalidDescr):
        return {"status": "failed", "errors": ["the description is not valid"], "summary": None}
    # Weights of other formats, which may bring Python code, are left alone: one format, this environment.
    summary = test_description(description, weight_format=weights_format, expected_type="model")  # type: ignore[arg-type]
    errors = [error.msg for detail in summary.details for error in detail.errors]
    passed = summary.status in ("passed", "valid-format") and not errors
    return {"status": "passed" if passed else "failed", "errors": errors, "summary": summary.model_dump(mode="json")}


def main() -> None:
    folder, report, *formats = sys.argv[1:]
    # Relative files of a description are looked for here.
    os.chdir(folder)
    package = manifest.read(Path(folder), is_default=True)
    trusted = parse_trusted(os.environ.get(TRUSTED_MODELS, ""))
    for name in formats:
        check_trust(package, name, trusted)
    verify_package(package, formats)
    results = {name: test_package(Path(folder), name) for name in formats}
    Path(report).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
