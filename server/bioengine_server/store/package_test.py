"""Test a stored package in the model runner's environment: by bioimageio.core, and in tiles against the whole.

The report stays beside the package where the store can be written.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioengine_server.errors import NotServedHere, StoreError, StoreNotWritable
from bioengine_server.store.layout import is_read_only
from bioengine_server.store.model_store import StoredModel
from bioengine_server.store.package import REPORTS
from bioengine_server.store.trust import code_of, usable_weights

REPORT_FILE = "test.json"


@dataclass(frozen=True)
class PackageTest:
    """The outcome for one of a package's weights. `status`: passed, failed or not run.

    `tiles`: how far the test image's result in tiles is from that of the whole, or why there is none.
    """

    weights: str
    status: str
    detail: str
    tiles: str = ""


def test_package(model: StoredModel, environments: Path, trusted: frozenset[str]) -> list[PackageTest]:
    """Run the reference test of each of a package's weights that this server runs, and compare tiles with the whole.

    Raises StoreError.

    Args:
        model: of the store; its report is written to `reports/test.json` in its folder, where that can be.
        environments: folder of the Python environments.
        trusted: the entries of BIOENGINE_TRUSTED_MODELS.
    """
    manifest = model.manifest
    python = environments / "runner" / "bin" / "python"
    if not python.exists():
        raise NotServedHere(manifest.id)
    formats = usable_weights(manifest, trusted)
    if not formats:
        reasons = [f"not trusted: {each}" for each in code_of(manifest)] or [f"only {', '.join(manifest.unsupported_weights)}"]
        return [PackageTest("", "not run", "; ".join(reasons))]
    if not is_read_only(model.folder):
        _reports_folder(model)  # that it can be written is known before a test that takes its time
    results = _run_test(model, python, formats, trusted)
    if not is_read_only(model.folder):
        (_reports_folder(model) / REPORT_FILE).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return [
        PackageTest(name, result["status"], _line("; ".join(result["errors"])), _tiles_in_words(result["tiles"]))
        for name, result in ((name, results[name]) for name in formats)
    ]


def _reports_folder(model: StoredModel) -> Path:
    """Where the report stays, beside the package. Raises StoreNotWritable."""
    reports = model.folder / REPORTS
    try:
        reports.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreNotWritable(model.folder, error.strerror or str(error)) from error
    return reports


def _run_test(model: StoredModel, python: Path, formats: list[str], trusted: frozenset[str]) -> dict[str, dict[str, Any]]:
    """The report of the test, which runs confined as in Triton: it reads the package and writes to a folder of its own. Raises
    StoreError.
    """
    with tempfile.TemporaryDirectory(prefix="bioengine-test-") as working:
        process = subprocess.run(
            [str(python), "-P", "-m", "bioengine_runner.confined_test", str(model.folder), working, *formats],
            capture_output=True,
            text=True,
            env={**os.environ, "BIOENGINE_TRUSTED_MODELS": ",".join(sorted(trusted))},
        )
        try:
            results: dict[str, dict[str, Any]] = json.loads((Path(working) / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            last = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise StoreError(
                f"The test of {model.manifest.id} could not be run (exit status {process.returncode}): {last}"
            ) from None
    return results


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _tiles_in_words(tiles: dict[str, Any]) -> str:
    if "problem" in tiles:
        return _line(tiles["problem"])
    sizes = ", ".join(f"{axis} {size}" for axis, size in tiles["tile"].items())
    return f"tiles ({sizes}) differ by at most {max(tiles['differences'].values()):.2g} from the whole"
