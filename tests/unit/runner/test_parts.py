"""Smaller parts: messages, outputs, Triton models, the registry, processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bioengine_runner.errors import BadRequest, ModelNotFound, WeightsNotAvailable, unmark
from bioengine_runner.loading.processes import Process
from bioengine_runner.loading.registry import Registry
from bioengine_runner.loading.triton_model import render_config, triton_model
from bioengine_runner.package_test import difference
from bioengine_runner.request import message
from bioengine_runner.rundir import Boot
from bioengine_runner.store.manifest import Manifest, Weights
from bioengine_runner.tensors.output import READABLE, readable
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

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
    except BadRequest:
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
    import msgpack

    with pytest.raises(BadRequest):
        message.decode(msgpack.packb({"_rtype": "ndarray", **array}))


@given(npst.arrays(st.sampled_from(["bool", "int64", "uint64", "float16", "float32", "int8", "float64"]), (2, 3)))
def test_outputs_are_readable_for_javascript(array: np.ndarray) -> None:
    output = readable(array)
    assert output.dtype.name in READABLE
    if output.dtype.kind != "f" or array.dtype.kind == "f":
        np.testing.assert_array_equal(output, array)


def manifest(**changes: object) -> Manifest:
    weights = {name: Weights(name, "") for name in ("torchscript", "onnx")}
    values: dict = {
        "folder": Path("/store/x/1"), "fingerprint": "1", "id": "affable-shark", "version": "1.0", "is_default": True,
        "inputs": (), "outputs": (), "weights": weights, "unsupported_weights": (), "code": (), "files": {}, "rdf": {},
        "triton_config": {
            "backend": "python", "max_batch_size": 0,
            "input": [{"name": 'a "b"', "data_type": "TYPE_FP32", "dims": [-1, 3]}], "output": [],
        },
    }  # fmt: skip
    return Manifest(**{**values, **changes})


def test_names_of_triton_models_follow_from_id_version_and_weights() -> None:
    assert triton_model(manifest()).name == "affable-shark"
    assert triton_model(manifest(), "torchscript").name == "affable-shark--torchscript"
    assert triton_model(manifest(is_default=False)).name == "affable-shark--v1.0"
    assert triton_model(manifest(is_default=False, version="1+x"), "torchscript").name == "affable-shark--v1_x--torchscript"
    with pytest.raises(WeightsNotAvailable):
        triton_model(manifest(), "../x")


def test_config_text_quotes_names() -> None:
    text = render_config(manifest().triton_config, {"package": 'a"b\\c'}, batches=False)
    assert 'name: "a \\"b\\""' in text and 'string_value: "a\\"b\\\\c"' in text and "dims: [ -1, -1 ]" in text
    text = render_config(manifest().triton_config, {}, batches=True)
    assert "dims: [ -1 ]" in text and "dynamic_batching" in text and "max_batch_size: 0" not in text


def test_errors_are_found_again_in_tritons_text() -> None:
    error = ModelNotFound("x", [])
    assert unmark(f"Failed to load: Exception: {error.marked()}\n\nAt:\n  /x.py(3): initialize") == str(error)
    assert unmark("Stub process is not healthy") is None


def test_the_registry_knows_the_living_and_the_dead(tmp_path: Path) -> None:
    boot = Boot(folder=tmp_path, store=tmp_path, run_timeout=1, debug=False)
    Registry.create(boot)
    registry, other = Registry(boot), Registry(boot)
    assert registry.model("a") is None
    registry.record_model("a", "fingerprint", 1, None)
    registry.record_process("router:1")
    known = other.model("a")
    assert known is not None and (known.package, known.generation, known.error) == ("fingerprint", 1, None)
    assert other.processes("router")["1"].is_alive()


def test_a_models_lock_lets_one_in(tmp_path: Path) -> None:
    boot = Boot(folder=tmp_path, store=tmp_path, run_timeout=1, debug=False)
    Registry.create(boot)
    order: list[str] = []

    def second() -> None:
        with Registry(boot).lock("a"):
            order.append("second")

    with Registry(boot).lock("a"):
        thread = threading.Thread(target=second)
        thread.start()
        with Registry(boot).lock("b"):
            order.append("other model")
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["other model", "first", "second"]


def test_a_zombie_is_dead_and_a_reused_pid_is_somebody_else() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    process = Process(child.pid, int(stat[19]))
    assert process.is_alive() and not Process(child.pid, int(stat[19]) + 1).is_alive()
    process.end(patience=0)
    assert not process.is_alive(), "killed, though its parent has not collected it"
    child.wait()


def test_the_router_imports_nothing_heavy() -> None:
    code = (
        "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('x'); import bioengine_runner.router;"
        "print([name for name in ('torch', 'bioimageio', 'onnxruntime', 'pydantic', 'xarray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_largest_difference() -> None:
    """Of numbers and masks; what is not a number in both is the same."""
    one = np.array([1.0, np.nan, np.inf, -3.0], np.float32)
    assert difference(one, one) == 0
    assert difference(one, one + np.array([0, 0, 0, 0.5], np.float32)) == 0.5
    assert np.isnan(difference(one, np.zeros(4, np.float32)))
    assert difference(np.array([True, False]), np.array([True, True])) == 1
    assert difference(np.array([0, 255], np.uint8), np.array([1, 0], np.uint8)) == 255
