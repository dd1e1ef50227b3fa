"""Names in a request that nobody knows, and dtypes of other Triton models: refused with what was meant, or what works."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from bioengine_contract.errors import BadRequest
from bioengine_contract.nearest import did_you_mean, nearest
from bioengine_contract.request import REQUEST_KEYS, RunRequest
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.service.tensors import to_triton
from bioengine_server.service.triton_client import TritonClient, _refuse

OPTIONAL = {
    "name": "three",
    "input": [
        {"name": "raw", "data_type": "TYPE_FP32"},
        {"name": "mask", "data_type": "TYPE_FP32", "optional": True},
        {"name": "last", "data_type": "TYPE_FP32", "optional": True},
    ],
}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("axis", "axes"),
        ("input", "inputs"),
        ("weights_format", "weight_format"),
        ("weightFormat", "weight_format"),
        ("model", "model_id"),
        ("modelId", "model_id"),
        ("TILE", "tile"),
        ("rdf", "return_rdf"),
        ("images", "inputs"),
        ("image", "inputs"),
        ("data", "inputs"),
    ],
)
def test_the_nearest_key_is_named(wrong: str, right: str) -> None:
    with pytest.raises(
        BadRequest, match=rf"unknown key '{wrong}'\. Did you mean '{right}'\? The known keys are model_id, inputs"
    ):
        RunRequest.from_client({"model_id": "x", wrong: "y"})


@pytest.mark.parametrize("far", ["zzz", "x" * 100_000, "", 5, None, (1, 2)])
def test_no_key_is_near(far: Any) -> None:
    with pytest.raises(BadRequest, match="unknown key") as error:
        RunRequest.from_client({"model_id": "x", far: "y"})
    assert "Did you mean" not in str(error.value) and len(str(error.value)) < 300
    assert nearest(str(far), REQUEST_KEYS) is None and did_you_mean(str(far), REQUEST_KEYS) == ""


def test_arguments_that_there_are_not() -> None:
    for name, told in (
        (
            "model",
            "there is no such argument. Did you mean 'model_name'? The known arguments are inputs, model_name, serialization,",
        ),
        ("selectOutputs", "Did you mean 'select_outputs'?"),
        (
            "weight_format",
            'it belongs into the dict in `inputs`, as in inputs=[{"model_id": "affable-shark", "weight_format": ...}].',
        ),
        ("model_id", 'as in inputs=[{"model_id": "affable-shark"}].'),
    ):
        with pytest.raises(RefusedArgument, match=re.escape(f"'{name}' is refused: ") + ".*" + re.escape(told)):
            _refuse(None, {name: 1}, TritonClient.execute)
    with pytest.raises(
        RefusedArgument, match=re.escape("Did you mean 'model_name'? The known arguments are model_name, model_version, verbose.")
    ):
        _refuse(None, {"name": 1}, TritonClient.get_config)
    with pytest.raises(RefusedArgument, match="its own Triton only"):
        _refuse("http://elsewhere", {}, TritonClient.execute)


def test_optional_inputs_of_triton_models_are_left_out() -> None:
    image = np.zeros((1, 4), np.float32)
    for inputs, names in (
        ([image], ["raw"]),
        ([image, None], ["raw"]),
        ([image, None, image], ["raw", "last"]),
        ({"raw": image, "mask": None, "last": image}, ["raw", "last"]),
        ([image] * 3, ["raw", "mask", "last"]),
    ):
        assert [name for name, _ in to_triton(inputs, OPTIONAL, "triton")] == names
    with pytest.raises(RefusedArgument, match=r"has no input 'masks'\. Did you mean 'mask'"):
        to_triton({"raw": image, "masks": image}, OPTIONAL, "triton")
    with pytest.raises(RefusedArgument, match=r"takes a list of 3 \(raw, mask, last\), but 0 were given"):
        to_triton([], OPTIONAL, "triton")


def ramp(low: float, high: float, dtype: str) -> np.ndarray:
    return np.linspace(low, high, 96).astype(dtype)


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (ramp(0, 1, "float32"), "UINT8"),
        (ramp(0, 1, "float64"), "UINT16"),
        (ramp(-3, 900, "float32"), "UINT16"),
        (ramp(-500, 500, "int16"), "UINT8"),
        (ramp(-500, 500, "int16"), "UINT16"),
        (ramp(-100, 100, "int8"), "UINT8"),
        (ramp(0, 255, "uint8"), "FP32"),
        (ramp(0, 1, "float64"), "FP32"),
        (ramp(0, 1e300, "float64"), "FP32"),
        (ramp(0, 200, "float32"), "UINT8"),
        (ramp(0, 0.0039, "float64"), "UINT8"),
        (ramp(0, 1e-40, "float64"), "FP32"),
    ],
)
def test_advice_about_a_dtype_keeps_the_picture(array: np.ndarray, wanted: str) -> None:
    config = {"name": "other", "input": [{"name": "image", "data_type": f"TYPE_{wanted}"}]}
    with pytest.raises(TypeError, match=f"is {array.dtype.name}; expected") as error:
        to_triton([array], config, "triton")
    code = re.search(r"with (.*?\))(?:\.|:)(?: no| its|$)", str(error.value))
    assert code is not None, str(error.value)
    image = eval(code[1], {"np": np, "image": array})
    ((_, taken),) = to_triton([image], config, "triton")
    assert np.isfinite(taken).all() and (np.diff(taken.astype(np.float64)) >= 0).all() and len(np.unique(taken)) > 90


@pytest.mark.parametrize(
    ("array", "wanted"),
    [(np.arange(2**24, 2**24 + 9, dtype=np.int64), "FP32"), (np.arange(300, dtype=np.uint16), "UINT8")],
    ids=["to float32", "to uint8"],
)
def test_labels_are_not_taken_for_intensities(array: np.ndarray, wanted: str) -> None:
    config = {"name": "other", "input": [{"name": "image", "data_type": f"TYPE_{wanted}"}]}
    with pytest.raises(TypeError, match=r"renumber (them|labels of objects) from 1"):
        to_triton([array], config, "triton")
