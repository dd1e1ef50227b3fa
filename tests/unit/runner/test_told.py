"""What clients are told about a run: values that are not finite, and faults of the model; with the real frameworks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bioengine_contract.tensors.finite import is_finite, warnings_of_inputs, warnings_of_outputs
from bioengine_runner.errors import CannotTile, TilesNotPossible, WrongOutputs
from bioengine_runner.inference import Pipeline
from bioengine_runner.reasons import StepError, in_short
from bioengine_runner.rundir import Boot
from bioengine_runner.tiling.geometry import Geometry, InputAxis, OutputAxis
from bioengine_runner.tiling.plan import Planner

from tests.packages import requests
from tests.unit.runner.stored import stored


def test_what_is_not_finite_is_counted() -> None:
    array = np.zeros((2, 50), np.float32)
    assert warnings_of_inputs({"image": array, "mask": None}) == [] == warnings_of_outputs({"out": array}, False)
    array[0, :3] = np.nan
    assert warnings_of_inputs({"image": array}) == [
        "Input 'image' has NaN in 3 of 100 pixels. The outputs may be NaN at these pixels, or everywhere."
    ]
    assert warnings_of_outputs({"fine": array[1:], "out": array}, True) == ["Output 'out' has NaN in 3 of 100 pixels."]
    array[1, :2] = np.inf, -np.inf
    (sentence,) = warnings_of_outputs({"out": array}, False)
    assert (
        sentence
        == "Output 'out' has NaN in 3 and infinity in 2 of 100 pixels, although the inputs have none: the model produced them."
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_numbers_are_finite(dtype: str) -> None:
    """Also where their sum is not."""
    array = np.full((100, 100), np.finfo(dtype).max, dtype)
    assert is_finite(array) and not warnings_of_inputs({"image": array})
    for value in (np.nan, np.inf, -np.inf):
        spoilt = array.copy()
        spoilt[5, 5] = value
        assert not is_finite(spoilt) and not is_finite(np.where(spoilt == array, 0, spoilt))
    assert is_finite(np.ones(5, bool)) and is_finite(np.ones(5, np.int64)) and is_finite(array[:0])


def pipeline(folder: Path, build: Callable[[Path], None], id: str, weight_format: str) -> Pipeline:
    build(folder)
    package = stored(folder / id, id)
    return Pipeline(package, [weight_format], Boot(folder, folder, run_timeout=1, debug=False, accelerator="cpu"))


@pytest.mark.parametrize(
    ("build", "channels", "step", "reason"),
    [
        (requests.binarized_by_channel, 2, "binarize", "could not be broadcast"),
        (
            requests.scaled_like_input,
            1,
            "scale_mean_variance",
            "statistics of the output 'out', but only those of inputs are available",
        ),
    ],
)
def test_a_step_that_the_reference_implementation_cannot_run_is_named(
    tmp_path: Path, build: Callable[[Path], None], channels: int, step: str, reason: str
) -> None:
    model = pipeline(tmp_path, build, build.__name__.replace("_", "-"), "onnx")
    with pytest.raises(StepError, match=reason) as error:
        model.predict([np.random.default_rng(0).random((1, channels, 20, 24), np.float32)])
    assert (error.value.kind, error.value.step, error.value.tensor) == ("post-processing", step, "out")


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (requests.dict_result, "torchscript weights give a dict"),
        (requests.one_of_two, "give 1 of the 2 outputs, without 'other'"),
    ],
)
def test_outputs_that_cannot_be_read_are_named(tmp_path: Path, build: Callable[[Path], None], problem: str) -> None:
    model = pipeline(tmp_path, build, build.__name__.replace("_", "-"), "torchscript")
    with pytest.raises(WrongOutputs, match=problem):
        model.predict([np.zeros((1, 1, 20, 24), np.float32)])


def test_the_lines_that_help_of_onnx_runtime(tmp_path: Path) -> None:
    model = pipeline(tmp_path, requests.fixed_in_onnx, "fixed-in-onnx", "onnx")
    with pytest.raises(Exception, match="ONNXRuntimeError") as error:
        model.predict([np.zeros((1, 1, 40, 64), np.float32)])
    assert in_short(error.value) == (
        "ONNX Runtime: Got invalid dimensions for input: image for the following indices: index: 2 Got: 40 Expected: 32; "
        "index: 3 Got: 64 Expected: 32"
    )


class Added(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.ones(3, 4)


def test_the_lines_that_help_of_torchscript(tmp_path: Path) -> None:
    torch.jit.script(Added()).save(str(tmp_path / "weights.pt"))
    with pytest.raises(Exception, match="TorchScript") as error:
        torch.jit.load(str(tmp_path / "weights.pt"))(torch.ones(5, 5))
    assert in_short(error.value) == "The size of tensor a (5) must match the size of tensor b (4) at non-singleton dimension 1"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("out"), "there is no 'out'"),
        (ValueError(), "ValueError"),
        (ValueError("x is 5\nmore"), "x is 5"),
        (OSError("/home/ada/models/a.npy is not there"), "… is not there"),
        (RuntimeError("x" * 1000), "x" * 299 + "…"),
        (  # as TensorFlow 2.17 gives them
            OSError(
                'Graph execution error:\n\nDetected at node ReadFile defined at (most recent call last):\n  File "a.py"\n\n'
                "/home/ada/secret; Permission denied\n\t [[{{node ReadFile}}]] [Op:__inference_pruned_30]"
            ),
            "…; Permission denied",
        ),
        (ValueError("{{function_node __wrapped__Reshape}} Input has 2 values, not 3 [Op:Reshape]"), "Input has 2 values, not 3"),
        (
            RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Concat node. Name:'c' "
                "Status Message: /onnxruntime_src/core/providers/cpu/tensor/concat.cc:154 Status onnxruntime::Prepare("
                "onnxruntime::OpKernelContext*, onnxruntime::Prepare&) const Axis 2 has mismatched dimensions of 5 and 4\n"
            ),
            "ONNX Runtime: Non-zero status code returned while running Concat node. Name:'c' Status Message: Axis 2 has "
            "mismatched dimensions of 5 and 4",
        ),
    ],
)
def test_reasons_in_short(error: Exception, text: str) -> None:
    assert in_short(error) == text


def test_a_tile_for_a_model_without_an_image_to_put_together() -> None:
    """Its image is run whole, of any size; and `tile` is refused with that advice."""
    axes = {"image": tuple(InputAxis(id, "space", 8, 8) for id in "yx")}
    planner = Planner("scores", Geometry(axes, {"score": (OutputAxis("class", "channel", None, 0),)}))
    sizes = {"image": {"y": 64, "x": 64}}
    assert len(planner.plan(sizes, float("inf"))) == 1
    assert len(planner.plan(sizes, float("inf"), {"y": 64, "x": 96})) == 1, "one tile is the whole"
    with pytest.raises(TilesNotPossible, match="Leave out `tile` to run the image whole") as error:
        planner.plan(sizes, float("inf"), {"y": 32, "x": 32})
    assert isinstance(error.value, CannotTile)
