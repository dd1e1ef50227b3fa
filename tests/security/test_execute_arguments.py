"""Arguments of `execute`: in range, or refused by name; and the model runner gets only what it reads."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from bioengine_contract import message
from bioengine_contract.errors import BadRequest
from bioengine_contract.request import RunRequest
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.service.infer_options import checked_version, infer_options
from bioengine_server.service.tensors import checked_outputs, to_triton
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("priority", -1), ("priority", True), ("priority", 2**32), ("priority", 1.0), ("priority", "1"), ("timeout", True),
        ("timeout", -1), ("timeout", 2**63), ("timeout", 1.5), ("model_version", "../1"), ("model_version", -1),
        ("model_version", True), ("model_version", "9" * 19), ("model_version", ["1"]), ("sequence_id", "x" * 100_000),
        ("sequence_id", -1), ("sequence_id", 2**64), ("sequence_id", True), ("sequence_id", "a\nb"),
        ("request_id", "x" * 129), ("request_id", 5), ("request_id", "a\0"),
        ("sequence_start", 1), ("sequence_end", "yes"), ("compression_algorithm", "zip"), ("compression_algorithm", ["gzip"]),
    ],
)  # fmt: skip
def test_arguments_of_execute_beyond_their_range(name: str, value: Any) -> None:
    with pytest.raises(RefusedArgument) as refused:
        infer_options(**{name: value})
    assert f"'{name}' is refused" in str(refused.value) and len(str(refused.value)) < 400


def test_arguments_of_execute_as_clients_send_them() -> None:
    options = infer_options(
        model_version=1, request_id="mine", sequence_id=2**40, sequence_start=True, priority=3, timeout=10**6,
        compression_algorithm="gzip",
    )  # fmt: skip
    assert (options.model_version, options.sequence_id, options.timeout, options.sequence_end) == ("1", 2**40, 10**6, False)
    nothing = infer_options(
        model_version=None, request_id=None, sequence_id=None, sequence_start=None, sequence_end=None, priority=None, timeout=None
    )
    assert nothing == infer_options() and checked_version("") == ""


CONFIG = {
    "name": "m",
    "input": [{"name": "image", "data_type": "TYPE_FP32"}, {"name": "text", "data_type": "TYPE_STRING", "optional": True}],
    "output": [{"name": "mask"}, {"name": "info"}],
}


@pytest.mark.parametrize("wanted", ["mask", ["mask", "mask"], ["mask"] * 10_000, [["mask"]], [5], ["other"], {"mask": 1}])
def test_outputs_that_the_model_has_not_or_twice(wanted: Any) -> None:
    with pytest.raises(RefusedArgument, match=r"'select_outputs' is refused: .* is not a list out of mask, info, each once"):
        checked_outputs(wanted, CONFIG)


def test_values_that_are_nested_without_end() -> None:
    deep: Any = np.zeros(1, np.float32)
    for _ in range(900):
        deep = [deep]
    with pytest.raises(TypeError, match="nested deeper than 32"):
        to_triton([deep], CONFIG, "triton")


@pytest.mark.parametrize(
    "key", ["operation", "shared", "triton_model", b"operation", "_rfile", "x" * 100_000, 5, None, ("model_id",)]
)
def test_keys_that_are_not_the_clients_are_refused_by_name(key: Any) -> None:
    with pytest.raises(BadRequest, match="the request has the unknown key") as refused:
        RunRequest.from_client({"model_id": "x", "inputs": [], key: "load"})
    assert "The known keys are model_id, inputs, weight_format, axes, tile, outputs, labels, return_rdf" in str(refused.value)
    assert len(str(refused.value)) < 400


LEAVES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(-(2**80), 2**80), st.text(max_size=200), st.binary(max_size=200),
    st.just(np.zeros((2, 2), np.float32)),
)  # fmt: skip


def parts(value: dict[str, Any]) -> dict[str, Any]:
    """All that is kept of a request."""
    request = RunRequest.from_client(value)
    return {"model_id": request.model_id, "inputs": request.inputs, **request.options}


KEYS = st.sampled_from(["_rtype", "_rfile", "_rshape", "operation", "x"])
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)
REQUESTS = st.fixed_dictionaries(
    {"model_id": ANYTHING, "inputs": ANYTHING}, optional={"axes": ANYTHING, "tile": ANYTHING, "weight_format": ANYTHING}
)


@given(REQUESTS)
def test_a_request_has_nothing_but_what_is_read(value: dict[str, Any]) -> None:
    """Whatever a client nests where: no key and no reference of the server's own, and little beside arrays."""
    try:
        request = parts(value)
    except BadRequest as error:
        assert len(str(error)) < 400
        return
    assert set(request) <= {"model_id", "inputs", "axes", "tile", "weight_format"}
    packed = msgpack.unpackb(message.encode(request), strict_map_key=False)
    pending, others = [packed], 0
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            assert "_rfile" not in item
            if "_rtype" in item:
                assert item["_rtype"] == "ndarray" and set(item) == {"_rtype", "_rvalue", "_rshape", "_rdtype"}
                continue
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        else:
            others += len(item) if isinstance(item, (str, bytes)) else 8
    assert others < 64 * 400


def test_what_clients_ask_stays() -> None:
    image = np.zeros((2, 2), np.float32)
    asked = {
        "model_id": "affable-shark", "inputs": [image, [image, image]], "return_rdf": False, "weight_format": None,
        "axes": ["yx", None], "tile": {"y": 32, "x": np.int64(32)},
    }  # fmt: skip
    request = parts(asked)
    assert request["inputs"][0] is image and request["inputs"][1] == [image, image]
    assert request["return_rdf"] is True and request["axes"] == ["yx", None] and request["tile"] == {"y": 32, "x": 32}
    assert parts({"model_id": "x", "inputs": None}) == {"model_id": "x", "inputs": None}


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\xdc\xff\xff" + b"\x90" * 65_535,
        b"\xdd" + (5 * 10**6).to_bytes(4, "big") + b"\x90" * 5 * 10**6,
        b"\x93" * 20 + (b"\xdc\xff\xff" + b"\xc0" * 65_535) * 10,
        b"",
    ],
    ids=lambda data: repr(data[:8]),
)
def test_messagepack_takes_no_multiple_of_its_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        message.decode(data)
    except (ValueError, TypeError, msgpack.UnpackException):
        pass
    else:
        assert len(data) < 100_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
