"""Test a stored package in the environment that serves it: with bioimageio.core's own test, and tiled against whole.

    python -m bioengine_runner.package_test PACKAGE_FOLDER REPORT.json [--halo] FORMAT...

Writes `{"<weights format>": {"status": "passed" | "failed", "errors": [str, ...], "summary": {...}, "tiles": {...}}}`, with
tiles as `compare_tiles` gives them; on a card also `"precision": {...}`, as `compare_precisions` does. With `--halo`, it measures
the halo alone, and writes `{"<weights format>": {"halo": {...}}}`, as `find_halo` gives it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_contract.manifest import RDF
from bioengine_contract.package import Package, read_package
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.tensors.fit import fit_inputs
from bioengine_contract.trust import check_trust, parse_trusted

from bioengine_runner.lean_import import lean_import_of_core

with lean_import_of_core():
    from bioimageio.core import test_description
    from bioimageio.core.digest_spec import get_test_input_sample
    from bioimageio.spec import InvalidDescr, ValidationContext, build_description, dump_description
    from bioimageio.spec.model import v0_4

from bioengine_runner.adapted import adapt_steps
from bioengine_runner.description import stored_description
from bioengine_runner.errors import CannotTile
from bioengine_runner.gpu import gpus
from bioengine_runner.inference import Pipeline
from bioengine_runner.onnx_sessions import opening_sessions
from bioengine_runner.precision import Precision, opening_torch
from bioengine_runner.rundir import ACCELERATOR, PRECISION, TRUSTED_MODELS, Boot
from bioengine_runner.seams import compare_shifted, measure_halo, share_of_range, without_overlap
from bioengine_runner.verify import verify_package
from bioengine_runner.weights import by_device, device_name

HALO = "--halo"

# Keys of a description whose files, or further packages, the test does not need.
_SHOWN = ("documentation", "covers", "icon", "attachments", "sample_inputs", "sample_outputs", "training_data", "parent")
_README = "README.md"
_TOLERANCES_0_4 = ("absolute_tolerance", "relative_tolerance", "decimal")


def test_package(package: Package, weights_format: str, boot: Boot) -> dict[str, Any]:
    """The outcome of the reference test for one weight format, with the tolerance that the description gives for it.

    If there is a GPU, the test runs on it, with the precision that is set.
    """
    try:
        description = stored_description(package)
    except PackageUnreadable as error:
        return {"status": "failed", "errors": [str(error)], "summary": None}
    tolerance = tolerance_0_4(description, weights_format) if isinstance(description, v0_4.ModelDescr) else {}
    content = tested_part(dump_description(description), weights_format)
    # Relative paths refer to the package; format 0.4 requires a documentation, which this test does not need.
    context = ValidationContext(root=package.folder, file_name=RDF, known_files={_README: None})
    device, _ = by_device([weights_format], boot.accelerator)[0]
    is_torch_on_card = device == "cuda" and weights_format != "onnx"
    opening = opening_torch(boot.precision) if is_torch_on_card else opening_sessions(package, boot.precision)
    with context, opening:
        source: Any = build_description(content, context=context.replace(perform_io_checks=True))
        if not isinstance(source, InvalidDescr):
            adapt_steps(source)
        summary = test_description(
            content if isinstance(source, InvalidDescr) else source,
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
    """How exact the outputs are in tiles, for the test image.

    Of a model that takes images of one size, the same pixels are compared in tiles that lie elsewhere (`compare_shifted`). Of
    others, the smallest tiles are compared with the whole image: the outputs are equal if no pixel depends on pixels farther
    away than the halo.

    Returns `{"tile": {axis: pixels}, "halo": {axis: pixels} (of one size only), "differences": {output: largest absolute
    difference}, "share": of the output's range}`, or `{"problem": why it cannot be run in tiles}`.
    """
    try:
        with _pipeline(package, weights_format, boot) as pipeline:
            return _compared_tiles(package, pipeline)
    except CannotTile as error:
        return {"problem": f"cannot be tiled: {error.reason}"}
    except Exception as error:
        # The framework may raise anything; the outcome of the reference test is reported all the same.
        return {"problem": f"could not be run in tiles: {error}"}


def _compared_tiles(package: Package, pipeline: Pipeline) -> dict[str, Any]:
    signature, arrays = pipeline.signature, _test_inputs(package, pipeline)
    images = signature.images(arrays) or None
    if images and not any(group.leader.is_free for group in signature.groups(arrays, images)):
        return asdict(compare_shifted(pipeline, arrays, package.manifest.outputs))
    tile = signature.smallest_tile(arrays, images)
    if not pipeline.fits_whole(arrays):
        return {"problem": "cannot be compared: the test image does not fit into memory in one piece"}
    specs = [spec for spec in package.manifest.outputs if images is None or spec.id in images]
    results = list(zip(specs, pipeline.predict(arrays, outputs=images), pipeline.predict(arrays, tile, outputs=images)))
    share = max(share_of_range(whole, tiled) for _, whole, tiled in results)
    return {"tile": tile, "differences": {spec.id: difference(*outputs) for spec, *outputs in results}, "share": share}


@contextmanager
def _pipeline(package: Package, weights_format: str, boot: Boot) -> Iterator[Pipeline]:
    """A pipeline whose weights are released at the end."""
    pipeline = Pipeline(package, [weights_format], boot)
    try:
        yield pipeline
    finally:
        pipeline.opened.close()


def find_halo(package: Package, weights_format: str, boot: Boot) -> dict[str, Any]:
    """The halo of a model that takes images of one size and declares none (`measure_halo`).

    Returns `{"pixels": {axis: pixels}, "difference": share of the output's range}`, or `{"problem": why it is not known}`.
    """
    try:
        with _pipeline(replace(package, manifest=without_overlap(package.manifest)), weights_format, boot) as pipeline:
            return asdict(measure_halo(pipeline, _test_inputs(package, pipeline), package.manifest.outputs))
    except CannotTile as error:
        return {"problem": f"cannot be tiled: {error.reason}"}
    except Exception as error:  # the framework may raise anything
        return {"problem": str(error)}


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
    if measures_halo := formats[:1] == [HALO]:
        formats = formats[1:]
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
    if measures_halo:
        results = {name: {"halo": find_halo(package, name, boot)} for name in formats}
    else:
        results = {name: _result(package, name, boot) for name in formats}
    Path(report).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
