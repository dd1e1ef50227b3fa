"""Test a stored package in the environment that serves it: with bioimageio.core's own test, and tiled against whole.

    python -m bioengine_runner.package_test PACKAGE_FOLDER REPORT.json FORMAT...

Writes `{"<weights format>": {"status": "passed" | "failed", "errors": [str, ...], "summary": {...}, "tiles": {...}}}`, with
tiles as `compare_tiles` gives them; on a card also `"precision": {...}`, as `compare_precisions` does.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_contract.manifest import RDF
from bioengine_contract.package import Package, read_package
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.tensors.fit import fit_inputs
from bioengine_contract.trust import check_trust, parse_trusted
from bioimageio.core import test_description
from bioimageio.core.digest_spec import get_test_input_sample
from bioimageio.spec import ValidationContext, dump_description
from bioimageio.spec.model import v0_4

from bioengine_runner.description import open_description
from bioengine_runner.errors import CannotTile
from bioengine_runner.gpu import gpus
from bioengine_runner.inference import Pipeline
from bioengine_runner.onnx_sessions import opening_sessions
from bioengine_runner.precision import Precision, set_torch
from bioengine_runner.rundir import ACCELERATOR, PRECISION, TRUSTED_MODELS, Boot
from bioengine_runner.verify import verify_package
from bioengine_runner.weights import by_device, device_name

# Keys of a description whose files, or further packages, the test does not need.
_SHOWN = ("documentation", "covers", "icon", "attachments", "sample_inputs", "sample_outputs", "training_data", "parent")
_README = "README.md"
_TOLERANCES_0_4 = ("absolute_tolerance", "relative_tolerance", "decimal")


def test_package(package: Package, weights_format: str, boot: Boot) -> dict[str, Any]:
    """The outcome of the reference test for one weight format, with the tolerance that the description gives for it.

    If there is a GPU, the test runs on it, with the precision that is set.
    """
    try:
        description = open_description(package)
    except PackageUnreadable as error:
        return {"status": "failed", "errors": [str(error)], "summary": None}
    tolerance = tolerance_0_4(description, weights_format) if isinstance(description, v0_4.ModelDescr) else {}
    content = tested_part(dump_description(description), weights_format)
    # Relative paths refer to the package; format 0.4 requires a documentation, which this test does not need.
    context = ValidationContext(root=package.folder, file_name=RDF, known_files={_README: None})
    device, _ = by_device([weights_format], boot.accelerator)[0]
    if device == "cuda" and weights_format != "onnx":
        set_torch(boot.precision)
    with context, opening_sessions(package, boot.precision):
        summary = test_description(
            content,
            weight_format=weights_format,  # type: ignore[arg-type]
            devices=[device_name(weights_format, device)],
            expected_type="model",
            **tolerance,  # type: ignore[arg-type]
        )
    errors = [error.msg for detail in summary.details for error in detail.errors]
    passed = summary.status in ("passed", "valid-format") and not errors
    return {"status": "passed" if passed else "failed", "errors": errors, "summary": summary.model_dump(mode="json")}


def tested_part(content: dict[str, Any], weights_format: str) -> dict[str, Any]:
    """The part of a description that the reference test of one weight format needs: the test requires every file in it.

    Weights of other formats are left out, because they may contain Python code or were not downloaded, and so are the keys that
    are only for display.
    """
    weights = {key: value for key, value in content["weights"][weights_format].items() if key not in ("parent", "dependencies")}
    part = {key: value for key, value in content.items() if key not in _SHOWN} | {"weights": {weights_format: weights}}
    for kind in ("inputs", "outputs"):
        part[kind] = [{key: value for key, value in spec.items() if key != "sample_tensor"} for spec in content[kind]]
    if str(content["format_version"]).startswith("0.4"):
        part["documentation"] = _README
    return part


def tolerance_0_4(description: v0_4.ModelDescr, weights_format: str) -> dict[str, float]:
    """The tolerances of the reference test in a description of format 0.4; bioimageio.core itself reads those of format 0.5."""
    config: Any = description.config
    for key in ("bioimageio", "test_kwargs", weights_format):
        config = config.get(key) if isinstance(config, dict) else None
    given = config if isinstance(config, dict) else {}
    return {key: value for key in _TOLERANCES_0_4 if isinstance(value := given.get(key), (int, float))}


def compare_tiles(package: Package, weights_format: str, boot: Boot) -> dict[str, Any]:
    """How far the outputs for the test image, run in the smallest tiles, differ from those for the whole image.

    Returns `{"tile": {axis: pixels}, "differences": {output: largest absolute difference}}`, or
    `{"problem": why it cannot be run in tiles}`. The outputs are equal if no pixel depends on pixels farther away than the halo.
    """
    try:
        pipeline = Pipeline(package, [weights_format], boot)
        arrays = _test_inputs(package, pipeline)
        tile = pipeline.smallest_tile(arrays)
        if not pipeline.fits_whole(arrays):
            return {"problem": "cannot be compared: the test image does not fit into memory in one piece"}
        outputs = zip(package.manifest.outputs, pipeline.predict(arrays), pipeline.predict(arrays, tile))
        return {"tile": tile, "differences": {spec.id: difference(whole, tiled) for spec, whole, tiled in outputs}}
    except CannotTile as error:
        return {"problem": f"cannot be tiled: {error.reason}"}
    except Exception as error:
        # The framework may raise anything; the outcome of the reference test is reported all the same.
        return {"problem": f"could not be run in tiles: {error}"}


def compare_precisions(package: Package, weights_format: str, boot: Boot) -> dict[str, Any] | None:
    """How far the outputs for the test image with BIOENGINE_PRECISION=fast differ from the exact ones; None on the CPU.

    Returns `{"differences": {output: largest absolute difference}}`, or `{"problem": why they cannot be compared}`.
    """
    results: list[list[np.ndarray]] = []
    precisions: tuple[Precision, ...] = ("exact", "fast")
    try:
        for precision in precisions:
            pipeline = Pipeline(package, [weights_format], replace(boot, precision=precision))
            if not pipeline.opened.is_on_card:
                return None
            results.append(pipeline.predict(_test_inputs(package, pipeline)))
            pipeline.opened.close()
        outputs = zip(package.manifest.outputs, *results)
        return {"differences": {spec.id: difference(exact, fast) for spec, exact, fast in outputs}}
    except Exception as error:  # the framework may raise anything
        return {"problem": f"could not be compared: {error}"}


def _test_inputs(package: Package, pipeline: Pipeline) -> list[np.ndarray | None]:
    sample = get_test_input_sample(pipeline.opened.description)
    members = {str(id): tensor.to_numpy() for id, tensor in sample.members.items()}
    return fit_inputs(package.manifest, [members.get(spec.id) for spec in package.manifest.inputs])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference of two arrays of the same shape; NaN equals NaN, and infinity the same infinity."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    differ = (one != other) & ~(np.isnan(one) & np.isnan(other))
    return float(np.abs(one[differ] - other[differ]).max(initial=0))


def _result(package: Package, weights_format: str, boot: Boot) -> dict[str, Any]:
    result = {**test_package(package, weights_format, boot), "tiles": compare_tiles(package, weights_format, boot)}
    precision = compare_precisions(package, weights_format, boot) if gpus() and boot.accelerator != "cpu" else None
    return result if precision is None else {**result, "precision": precision}


def main() -> None:
    folder, report, *formats = sys.argv[1:]
    # Relative paths in a description refer to this folder.
    os.chdir(folder)
    package = read_package(Path(folder), is_default=True)
    trusted = parse_trusted(os.environ.get(TRUSTED_MODELS, ""))
    for name in formats:
        check_trust(package.manifest, name, trusted)
    verify_package(package, formats)
    # No Triton runs here; only these three of its settings matter for a pipeline.
    accelerator = os.environ.get(ACCELERATOR, "auto")
    precision: Precision = "fast" if os.environ.get(PRECISION) == "fast" else "exact"
    boot = Boot(Path(folder), Path(folder), 0, debug=False, trusted=trusted, accelerator=accelerator, precision=precision)
    results = {name: _result(package, name, boot) for name in formats}
    Path(report).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
