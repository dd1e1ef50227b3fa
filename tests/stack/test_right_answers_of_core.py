"""Every kind of model gives what bioimageio.core gives for the same images, whole and in one go.

Each sort of them gives it through the stack. Others like them, which differ in sizes, steps or the format of their weights, go
through the same code of server and model runner in one process, without Triton: a model's own process takes seconds to start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract.manifest import Axis, Manifest
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import ZOO, Client, Stack, example_output
from tests.stack.reference import Outputs, Run, core_outputs, outputs_in_process

BOTH = ("onnx", "torchscript")
REAL = {"nuclei-broad": BOTH, "multi-tensor": ("torchscript",), "legacy-v04-onnx": ("onnx",)}
USUAL = {
    "conscientious-seashell": BOTH,
    "two-inputs": BOTH,
    "label-doubler": BOTH,
    "old-otter": ("onnx",),
    "slow-snail": ("torchscript",),
}
SIZES = "conv-2d conv-2d-far conv-2d-fixed conv-2d-uint16 conv-2d-uint8 conv-3d conv-double conv-half two-images"
AXES = "no-batch channels-last channels-last-no-batch"
OLD = "old-conv old-fixed old-fixed-halo"
STEPS = """
    step-binarize step-clip step-clip-percentiles step-ensure-dtype step-fixed-zero-mean-unit-variance
    step-fixed-zero-mean-unit-variance-channels step-scale-linear step-scale-linear-channels step-scale-range
    step-scale-range-dataset step-scale-range-reference step-sigmoid step-softmax step-zero-mean-unit-variance
    step-zero-mean-unit-variance-batches step-zero-mean-unit-variance-dataset step-zero-mean-unit-variance-samples
    old-binarize old-clip old-scale-linear old-scale-range old-scale-range-dataset old-sigmoid old-zero-mean-unit-variance
    old-zero-mean-unit-variance-dataset old-zero-mean-unit-variance-fixed
"""
NOT_BY_CORE = "step-scale-mean-variance"
KINDS = {
    **dict.fromkeys([*SIZES.split(), *AXES.split(), *OLD.split()], BOTH),
    **dict.fromkeys(["every-dtype", "declared-uint8", "old-dtypes", *STEPS.split()], ("onnx",)),
}
MODELS = [(id, weights) for models in (USUAL, REAL, KINDS) for id, formats in models.items() for weights in formats]
# The core tier: one of each sort, and a step whose statistics must not stay.
CORE = {
    "conv-2d",
    "conv-3d",
    "two-images",
    "channels-last",
    "old-fixed-halo",
    "every-dtype",
    "step-zero-mean-unit-variance-dataset",
}
# What Triton and the model's process have to do with them differs as well: axes, and dtypes of what goes in and comes out.
OF_THEIR_OWN = {
    *("no-batch", "channels-last-no-batch"),
    *("conv-2d-uint8", "conv-half", "declared-uint8", "old-dtypes", "step-ensure-dtype"),
}


def another_size(axis: Axis, index: int) -> int:
    """A valid size other than that of most test tensors, different along each axis."""
    if axis.step == 0:
        return axis.min
    if axis.type == "batch":
        return 3
    return axis.min + axis.step * -(-(8 + 4 * index) // axis.step)


def other_inputs(manifest: Manifest, seed: int) -> list[np.ndarray]:
    """Random inputs of another size, as the model's description allows."""
    random = np.random.default_rng(seed)
    sizes: dict[tuple[str, str], int] = {}
    for spec in manifest.inputs:
        sizes |= {(spec.id, axis.id): another_size(axis, index) for index, axis in enumerate(spec.axes)}
    arrays = []
    for spec in manifest.inputs:
        shape = [
            int(sizes[axis.reference.tensor, axis.reference.axis] * axis.reference.scale) + axis.reference.offset
            if axis.reference
            else sizes[spec.id, axis.id]
            for axis in spec.axes
        ]
        kind = np.dtype(spec.dtype).kind
        values = random.normal(0, 1, shape) if kind == "f" else random.integers(0, 2 if kind == "b" else 100, shape)
        arrays.append(values.astype(spec.dtype))
    return arrays


def through_stack(id: str, weights: str) -> bool:
    return id not in KINDS or (weights == "onnx" and id in CORE | OF_THEIR_OWN) or (id, weights) == ("conv-3d", "torchscript")


@dataclass(frozen=True)
class Case:
    """A run, what bioimageio.core gives for it, and what we give in one process, if it does not go through the stack."""

    run: Run
    expected: Outputs
    own: Outputs | None


class Cases:
    """Of the test tensors of packages, and of other images."""

    def __init__(self, home: Path, parents: list[Path], models: list[tuple[str, str]], folder: Path) -> None:
        manifests = {model.manifest.id: model.manifest for model in ModelStore(home / "models").models()}
        runs: list[Run] = []
        for id, weights in models:
            package = next((parent / id for parent in parents if (parent / id).is_dir()), None)
            if package is None:
                continue
            tests = [np.load(package / name) for name in manifests[id].test_inputs]
            others = [other_inputs(manifests[id], seed) for seed in (1, 2)]
            runs += [Run(package, weights, inputs) for inputs in (tests, *others)]
        by_core = core_outputs(runs, folder / "core")
        in_process = [not through_stack(run.package.name, run.weights) for run in runs]
        own = iter(outputs_in_process(list(compress(runs, in_process)), folder / "own", home / "models"))
        self._all = [Case(run, outputs, next(own) if is_own else None) for run, outputs, is_own in zip(runs, by_core, in_process)]

    def of(self, id: str, weights: str) -> list[Case]:
        """Of the test tensors first."""
        return [case for case in self._all if (case.run.package.name, case.run.weights) == (id, weights)]


@pytest.fixture(scope="module")
def cases(
    request: pytest.FixtureRequest, kinds_home: Path, packages: Path, all_kinds: Path, tmp_path_factory: pytest.TempPathFactory
) -> Cases:
    """Those that are run this time."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    models = [(item.callspec.params["id"], item.callspec.params["weights"]) for item in items]
    parents = [packages, all_kinds, ZOO]
    return Cases(kinds_home, parents, [*models, (NOT_BY_CORE, "onnx")], tmp_path_factory.mktemp("cases"))


@pytest.fixture
def ended_models(kinds_stack: Stack) -> Iterator[None]:
    """So many models side by side would take gigabytes of memory: the processes of those that a test ran end with it."""
    yield
    for process in kinds_stack.models():
        process.kill()


def assert_close(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], what: str) -> None:
    assert len(got) == len(wanted), what
    for one, other in zip(got, wanted):
        assert one.shape == other.shape, what
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5, err_msg=what)


def model(id: str, weights: str) -> Any:
    return pytest.param(id, weights, marks=[] if id in CORE and weights == "onnx" else pytest.mark.extended)


@pytest.mark.usefixtures("ended_models")
@pytest.mark.parametrize(("id", "weights"), [model(*names) for names in MODELS])
def test_gives_what_bioimageio_core_gives(kinds_client: Client, cases: Cases, all_kinds: Path, id: str, weights: str) -> None:
    if id in REAL and not ZOO.is_dir():
        pytest.skip("the real packages of ../shared/zoo are not here")
    found = cases.of(id, weights)
    assert len(found) == 3
    for case in found:
        assert not isinstance(case.expected, str), case.expected
        shapes, outputs = [array.shape for array in case.run.inputs], case.own
        if outputs is None:
            result = kinds_client.run(id, list(case.run.inputs), weight_format=weights)
            assert result["success"] is True, (shapes, result)
            outputs = result["outputs"]
        assert not isinstance(outputs, str), (shapes, outputs)
        assert_close(outputs, case.expected, str(shapes))
    if id in KINDS:
        of_test = found[0].expected
        assert not isinstance(of_test, str)
        assert_close(of_test, example_output(all_kinds, id), "bioimageio.core, and the formula that the package was built with")


def test_no_package_is_left_out(all_kinds: Path) -> None:
    assert {folder.name for folder in all_kinds.iterdir()} == {*KINDS, NOT_BY_CORE}


@pytest.mark.usefixtures("ended_models")
def test_what_bioimageio_core_cannot_run_fails_and_says_which_model(kinds_client: Client, cases: Cases) -> None:
    for case in cases.of(NOT_BY_CORE, "onnx"):
        assert isinstance(case.expected, str), "bioimageio.core can run this now: the package belongs among the others"
        result = kinds_client.run(NOT_BY_CORE, list(case.run.inputs))
        assert result["success"] is False and NOT_BY_CORE in result["error"], result
