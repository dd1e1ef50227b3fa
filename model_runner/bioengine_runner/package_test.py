"""Test a stored package in the environment that serves it: by bioimageio.core's own test, and in tiles against the whole.

    python -m bioengine_runner.package_test PACKAGE_FOLDER REPORT.json FORMAT...

Writes `{"<weights format>": {"status": "passed" | "failed", "errors": [str, ...], "summary": {...}, "tiles": {...}}}`, with
tiles as `compare_tiles` gives them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_contract.manifest import RDF
from bioengine_contract.package import Package, read_package
from bioengine_contract.tensors.fit import fit_inputs
from bioengine_contract.trust import check_trust, parse_trusted
from bioimageio.core import test_description
from bioimageio.core.digest_spec import get_test_input_sample
from bioimageio.spec import InvalidDescr, ValidationContext, dump_description, load_description
from bioimageio.spec.model import v0_4

from bioengine_runner.errors import CannotTile
from bioengine_runner.inference import Pipeline
from bioengine_runner.rundir import ACCELERATOR, TRUSTED_MODELS, Boot
from bioengine_runner.verify import verify_package
from bioengine_runner.weights import tensors_found

# Keys of a description that name files which its test does not need, or further packages.
_SHOWN = ("documentation", "covers", "icon", "attachments", "sample_inputs", "sample_outputs", "training_data", "parent")
_README = "README.md"
_TOLERANCES_0_4 = ("absolute_tolerance", "relative_tolerance", "decimal")


def test_package(package: Package, weights_format: str) -> dict[str, Any]:
    """The outcome of the reference test of one of a package's weights, with the tolerance that its description has for it."""
    # Without the checks that want every file: those of a package that was downloaded are not all stored.
    description: Any = load_description(package.folder / RDF, perform_io_checks=False)
    if isinstance(description, InvalidDescr):
        return {"status": "failed", "errors": ["the description is not valid"], "summary": None}
    tolerance = tolerance_0_4(description, weights_format) if isinstance(description, v0_4.ModelDescr) else {}
    content = tested_part(dump_description(description), weights_format)
    # Relative sources are looked for in the package; format 0.4 wants a documentation, which is none of this test's business.
    context = ValidationContext(root=package.folder, file_name=RDF, known_files={_README: None})
    with context, tensors_found(package):
        summary = test_description(content, weight_format=weights_format, expected_type="model", **tolerance)  # type: ignore[arg-type]
    errors = [error.msg for detail in summary.details for error in detail.errors]
    passed = summary.status in ("passed", "valid-format") and not errors
    return {"status": "passed" if passed else "failed", "errors": errors, "summary": summary.model_dump(mode="json")}


def tested_part(content: dict[str, Any], weights_format: str) -> dict[str, Any]:
    """What the reference test of weights of one format needs of a description: it wants every file that is named to be there.

    Weights of other formats, which may bring Python code or were not downloaded, are left out, and what only shows a model.
    """
    weights = {key: value for key, value in content["weights"][weights_format].items() if key not in ("parent", "dependencies")}
    part = {key: value for key, value in content.items() if key not in _SHOWN} | {"weights": {weights_format: weights}}
    for kind in ("inputs", "outputs"):
        part[kind] = [{key: value for key, value in spec.items() if key != "sample_tensor"} for spec in content[kind]]
    if str(content["format_version"]).startswith("0.4"):
        part["documentation"] = _README
    return part


def tolerance_0_4(description: v0_4.ModelDescr, weights_format: str) -> dict[str, float]:
    """What format 0.4 has for tolerances of the reference test of weights; bioimageio.core itself reads those of 0.5."""
    config: Any = description.config
    for key in ("bioimageio", "test_kwargs", weights_format):
        config = config.get(key) if isinstance(config, dict) else None
    given = config if isinstance(config, dict) else {}
    return {key: value for key in _TOLERANCES_0_4 if isinstance(value := given.get(key), (int, float))}


def compare_tiles(package: Package, weights_format: str, boot: Boot) -> dict[str, Any]:
    """How far the test image's outputs in the smallest tiles are from those of the whole.

    `{"tile": {axis: pixels}, "differences": {output: the largest, absolute}}`, or `{"problem": why there are no such tiles}`.
    Tiles give what the whole does where the model looks no further than its halo.
    """
    try:
        pipeline = Pipeline(package, [weights_format], boot)
        sample = get_test_input_sample(pipeline.opened.description)
        members = {str(id): tensor.to_numpy() for id, tensor in sample.members.items()}
        arrays = fit_inputs(package.manifest, [members.get(spec.id) for spec in package.manifest.inputs])
        tile = pipeline.smallest_tile(arrays)
        if not pipeline.fits_whole(arrays):
            return {"problem": "cannot be compared: the test image does not fit into memory in one piece"}
        outputs = zip(package.manifest.outputs, pipeline.predict(arrays), pipeline.predict(arrays, tile))
        return {"tile": tile, "differences": {spec.id: difference(whole, tiled) for spec, whole, tiled in outputs}}
    except CannotTile as error:
        return {"problem": f"cannot be tiled: {error.reason}"}
    except Exception as error:
        # Whatever the framework raises; the reference test's outcome is told all the same.
        return {"problem": f"could not be run in tiles: {error}"}


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference of two arrays of one shape; the same NaN or infinity is none."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    differ = (one != other) & ~(np.isnan(one) & np.isnan(other))
    return float(np.abs(one[differ] - other[differ]).max(initial=0))


def main() -> None:
    folder, report, *formats = sys.argv[1:]
    # Relative files of a description are looked for here.
    os.chdir(folder)
    package = read_package(Path(folder), is_default=True)
    trusted = parse_trusted(os.environ.get(TRUSTED_MODELS, ""))
    for name in formats:
        check_trust(package.manifest, name, trusted)
    verify_package(package, formats)
    # No Triton runs here: of its start, only these two settings concern a pipeline.
    accelerator = os.environ.get(ACCELERATOR, "auto")
    boot = Boot(Path(folder), Path(folder), run_timeout=0, debug=False, trusted=trusted, accelerator=accelerator)
    results = {name: {**test_package(package, name), "tiles": compare_tiles(package, name, boot)} for name in formats}
    Path(report).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
