"""`scale_linear` with axes in format 0.4, which bioimageio.core 0.11 does not run by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_runner.inference import Pipeline
from bioengine_runner.package_test import test_package as run_reference_test
from bioengine_runner.rundir import Boot

from tests.packages.processing import GAINS, IMAGE, OFFSETS, Step, along_channels, processed
from tests.unit.runner.stored import stored

CHANNELS, SCALARS = along_channels(GAINS), {"gain": 2.0, "offset": 1.0}
CASES = [
    ({"axes": "yx", "gain": GAINS, "offset": OFFSETS}, CHANNELS, along_channels(OFFSETS)),
    ({"axes": "yx", "gain": GAINS, "offset": [1.0]}, CHANNELS, 1.0),
    ({"axes": "yx", "gain": GAINS}, CHANNELS, 0.0),
    ({"axes": "xy", **SCALARS}, 2.0, 1.0),
    ({"axes": "cyx", "gain": [2.0], "offset": 1.0}, 2.0, 1.0),
]


def boot(folder: Path) -> Boot:
    return Boot(folder, folder, run_timeout=60, debug=False, accelerator="cpu")


@pytest.mark.parametrize(("kwargs", "gain", "offset"), CASES)
def test_it_runs_before_and_after_the_model(tmp_path: Path, kwargs: dict[str, Any], gain: Any, offset: Any) -> None:
    step = Step("scale_linear", lambda image: image * gain + offset, kwargs, "axes")
    processed(tmp_path, step, old=True)
    package = stored(tmp_path / "old-scale-linear-axes", "old-scale-linear-axes")
    squared, after = Pipeline(package, ["onnx"], boot(tmp_path)).predict([IMAGE])
    np.testing.assert_allclose(squared, (IMAGE * gain + offset) ** 2, rtol=1e-5)
    np.testing.assert_allclose(after, squared * gain + offset, rtol=1e-5)
    outcome = run_reference_test(package, "onnx", boot(tmp_path))
    assert outcome["status"] == "passed", outcome["errors"]


@pytest.mark.parametrize(
    "kwargs", [{"axes": "cyx", "gain": GAINS}, {"axes": "y", "gain": GAINS}, {"axes": "yx", "gain": GAINS, "offset": [1, 2]}]
)
def test_values_that_are_for_no_axis_are_refused(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    processed(tmp_path, Step("scale_linear", lambda image: image, SCALARS, "axes"), old=True)
    file = tmp_path / "old-scale-linear-axes" / "rdf.yaml"
    rdf = yaml.safe_load(file.read_text())
    rdf["inputs"][0]["preprocessing"][0]["kwargs"] = kwargs
    file.write_text(yaml.safe_dump(rdf))
    with pytest.raises(PackageUnreadable, match=r"scale_linear of 'image' \(bcyx\) has 3 gains and"):
        Pipeline(stored(file.parent, file.parent.name), ["onnx"], boot(tmp_path))
