"""Test a stored package in the model runner's environment: with bioimageio.core, and tiled against whole.

The report is stored beside the package if the store can be written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bioengine_contract.manifest import MAX_SEAM
from bioengine_contract.trust import code_of, usable_weights

from bioengine_server.environments import environment
from bioengine_server.settings import Settings
from bioengine_server.store.errors import NotServedHere, StoreNotWritable
from bioengine_server.store.layout import is_read_only, write_json
from bioengine_server.store.model_store import StoredModel
from bioengine_server.store.package import REPORTS
from bioengine_server.store.package_test_run import PrecisionOutcome, TilesOutcome, run_test
from bioengine_server.untrusted import printable

REPORT_FILE = "test.json"


@dataclass(frozen=True)
class PackageTest:
    """The outcome for one weight format of a package. `status`: passed, failed or not run.

    `tiles`: how far results in tiles differ, from that for the whole test image or, for models of one size, from those in tiles
    that lie elsewhere; or why they cannot be compared. `precision`: on a GPU, how far the result with BIOENGINE_PRECISION=fast
    differs from the exact one.
    """

    weights: str
    status: str
    detail: str
    tiles: str = ""
    precision: str = ""


def test_package(model: StoredModel, settings: Settings) -> list[PackageTest]:
    """Run the reference test for each weight format that this server can run, and compare tiles with the whole image.

    Raises StoreError.

    Args:
        model: a stored model; the report is written to `reports/test.json` in its folder, if that can be written.
        settings: the server's; the test computes as its models would.
    """
    manifest, trusted = model.manifest, settings.trusted
    python = environment(settings.environments, "runner") / "bin" / "python"
    if not python.exists():
        raise NotServedHere(manifest.id)
    formats = usable_weights(manifest, trusted)
    if not formats:
        reasons = [f"not trusted: {each}" for each in code_of(manifest)]
        if not reasons and manifest.convertible is not None:
            reasons = [f"{manifest.convertible} weights that are not converted to onnx"]
        return [PackageTest("", "not run", "; ".join(reasons or [f"only {', '.join(manifest.unsupported_weights)}"]))]
    if not is_read_only(model.folder):
        _reports_folder(model)  # check that the report can be written before a test that may take long
    results = run_test(manifest.id, model.folder, python, formats, test_variables(settings))
    if not is_read_only(model.folder):
        report = {name: result.model_dump(exclude_unset=True) for name, result in results.items()}
        try:
            write_json(_reports_folder(model) / REPORT_FILE, report)
        except OSError as error:
            raise StoreNotWritable(model.folder, error.strerror or str(error)) from error
    return [
        PackageTest(
            name,
            result.status,
            _line("; ".join(result.errors)),
            _tiles_in_words(result.tiles),
            _precision_in_words(result.precision),
        )
        for name, result in ((name, results[name]) for name in formats)
    ]


def test_variables(settings: Settings) -> dict[str, str]:
    """The environment variables of a test that computes as the server's models do."""
    return {
        **os.environ,
        "BIOENGINE_TRUSTED_MODELS": ",".join(sorted(settings.trusted)),
        "BIOENGINE_ACCELERATOR": settings.accelerator,
        "BIOENGINE_PRECISION": settings.precision,
    }


def _reports_folder(model: StoredModel) -> Path:
    """The folder for the report, beside the package. Raises StoreNotWritable."""
    reports = model.folder / REPORTS
    try:
        reports.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreNotWritable(model.folder, error.strerror or str(error)) from error
    return reports


def _line(text: str) -> str:
    return printable(" ".join(text.split())[:200])


def _tiles_in_words(tiles: TilesOutcome) -> str:
    if tiles.problem is not None:
        return _line(tiles.problem)
    sizes = ", ".join(f"{axis} {size}" for axis, size in tiles.tile.items())
    difference = f"{max(tiles.differences.values(), default=0):.2g}"
    if tiles.halo:
        halo = ", ".join(f"{axis} {size}" for axis, size in tiles.halo.items())
        text = f"tiles ({sizes}; halo {halo}) differ by at most {difference} from tiles that lie elsewhere"
    else:
        text = f"tiles ({sizes}) differ by at most {difference} from the whole"
    return _line(text if tiles.share < MAX_SEAM else f"{text}: inexact in tiles ({tiles.share:.0%} of the range)")


def _precision_in_words(precision: PrecisionOutcome | None) -> str:
    if precision is None:
        return ""
    if precision.problem is not None:
        return _line(precision.problem)
    difference = max(precision.differences.values(), default=0)
    return _line(f"BIOENGINE_PRECISION=fast differs by at most {difference:.2g} from exact")
