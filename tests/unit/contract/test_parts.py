"""Smaller parts: messages, outputs, Triton models, errors."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from bioengine_contract import message
from bioengine_contract.errors import unmark
from bioengine_contract.manifest import Weights
from bioengine_contract.package import Package
from bioengine_contract.package_errors import ModelNotFound, WeightsNotAvailable
from bioengine_contract.tensors.readable import READABLE, readable
from bioengine_contract.triton_model import render_config, triton_model
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.unit.contract.packages import package

DTYPES = sorted(message.DTYPES)


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(max_dims=5, max_side=4, min_side=0))))
def test_arrays_survive_the_wire(array: np.ndarray) -> None:
    restored = message.decode(message.encode({"inputs": [array]}))["inputs"][0]
    assert restored.dtype == array.dtype and restored.shape == array.shape
    assert restored.tobytes() == np.ascontiguousarray(array).tobytes()


@given(st.binary())
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    try:
        message.decode(data)
    except (ValueError, TypeError, msgpack.UnpackException):
        pass


@pytest.mark.parametrize(
    "array",
    [
        {"_rvalue": b"1234", "_rshape": [2], "_rdtype": "float32"},
        {"_rvalue": b"1234", "_rshape": [-1], "_rdtype": "uint8"},
        {"_rvalue": b"1234", "_rshape": [4], "_rdtype": "object"},
        {"_rvalue": b"1234", "_rshape": [4], "_rdtype": ["uint8"]},
        {"_rvalue": "1234", "_rshape": [4], "_rdtype": "uint8"},
        {"_rvalue": b"", "_rshape": [0, 2**62, 4], "_rdtype": "U1"},
    ],
)
def test_arrays_that_are_none_are_refused(array: dict) -> None:
    with pytest.raises(ValueError):
        message.decode(msgpack.packb({"_rtype": "ndarray", **array}))


@given(npst.arrays(st.sampled_from(["bool", "int64", "uint64", "float16", "float32", "int8", "float64"]), (2, 3)))
def test_outputs_are_readable_for_javascript(array: np.ndarray) -> None:
    output = readable(array)
    assert output.dtype.name in READABLE
    if output.dtype.kind != "f" or array.dtype.kind == "f":
        np.testing.assert_array_equal(output, array)


def shark(is_default: bool = True, **changes: Any) -> Package:
    weights = {name: Weights(name, "") for name in ("torchscript", "onnx")}
    config = {
        "backend": "python", "max_batch_size": 0,
        "input": [{"name": 'a "b"', "data_type": "TYPE_FP32", "dims": [-1, 3]}], "output": [],
    }  # fmt: skip
    return package(is_default=is_default, **{"weights": weights, "triton_config": config, **changes})


def test_names_of_triton_models_follow_from_id_version_and_weights() -> None:
    assert triton_model(shark()).name == "affable-shark"
    assert triton_model(shark(), "torchscript").name == "affable-shark--torchscript"
    assert triton_model(shark(is_default=False)).name == "affable-shark--v1.0"
    assert triton_model(shark(is_default=False, version="1+x"), "torchscript").name == "affable-shark--v1_x--torchscript"
    with pytest.raises(WeightsNotAvailable):
        triton_model(shark(), "../x")


def test_config_text_quotes_names() -> None:
    text = render_config(shark().manifest.triton_config, {"package": 'a"b\\c'}, batches=False)
    assert 'name: "a \\"b\\""' in text and 'string_value: "a\\"b\\\\c"' in text and "dims: [ -1, -1 ]" in text
    text = render_config(shark().manifest.triton_config, {}, batches=True)
    assert "dims: [ -1 ]" in text and "dynamic_batching" in text and "max_batch_size: 0" not in text


def test_errors_are_found_again_in_tritons_text() -> None:
    error = ModelNotFound("x", [])
    found = unmark(f"Failed to load: Exception: {error.marked()}\n\nAt:\n  /x.py(3): initialize")
    assert found is not None and str(found) == str(error) and found.code == "model_not_found"
    assert unmark("Stub process is not healthy") is None
