"""Results of Triton's protocol as JSON: made here from binary ones, and bounded; Triton makes none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import requests
from bioengine_server.http.triton_request import BadInference, parse
from bioengine_server.http.triton_response import MAX_JSON_RESULT, parse_header, with_json

from tests.stack.harness import Stack
from tests.tiers import cases


def result(*outputs: tuple[str, str, list[int], bytes]) -> tuple[bytes, bytes]:
    described = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, datatype, shape, data in outputs
    ]
    return json.dumps({"model_name": "m", "outputs": described}).encode(), b"".join(data for *_, data in outputs)


def as_json(datatype: str, shape: list[int], data: bytes) -> Any:
    header, content = result(("o", datatype, shape, data))
    written, binary = with_json(parse_header(header, lambda name: True), content, lambda name: True)
    (output,) = json.loads(written)["outputs"]
    assert binary == b"" and (output["datatype"], output["shape"]) == (datatype, shape) and "parameters" not in output
    return output["data"]


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP32", np.array([0.1, -2], np.float32)), ("FP64", np.array([0.1, 1e300])), ("UINT64", np.array([2**64 - 1], np.uint64)),
        ("INT8", np.array([-128, 127], np.int8)), ("BOOL", np.array([True, False])), ("FP16", np.array([0.5], np.float16)),
    ],
)  # fmt: skip
def test_numbers_as_json(datatype: str, array: np.ndarray) -> None:
    data = as_json(datatype, [len(array)], array.tobytes())
    np.testing.assert_array_equal(np.array(data, array.dtype), array)


def test_what_json_does_not_have() -> None:
    assert as_json("FP32", [3], np.array([np.nan, 1, np.inf], np.float32).tobytes()) == [None, 1.0, None]
    assert as_json("BYTES", [2], b"\2\0\0\0\xc3\xa9\0\0\0\0") == ["é", ""]
    for datatype, data in (("BYTES", b"\1\0\0\0\xff"), ("BF16", b"\0\0")):
        with pytest.raises(BadInference, match="request binary_data for it"):
            as_json(datatype, [1], data)


def test_outputs_of_both_kinds_stay_apart() -> None:
    header, content = result(("a", "UINT8", [2], b"\1\2"), ("b", "UINT8", [2], b"\3\4"), ("c", "UINT8", [1], b"\5"))
    wanted = [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}, {"name": "c"}]
    asked = parse(json.dumps({"inputs": [], "outputs": wanted}).encode(), True)
    assert asked.has_json and [asked.wants_json(name) for name in "abc"] == [False, True, True]
    written, binary = with_json(parse_header(header, asked.wants_json), content, asked.wants_json)
    outputs = json.loads(written)["outputs"]
    assert binary == b"\1\2" and outputs[0]["parameters"] == {"binary_data_size": 2} and "data" not in outputs[0]
    assert [output["data"] for output in outputs[1:]] == [[3, 4], [5]]


def test_a_result_of_too_many_values_is_refused_by_its_header() -> None:
    header, _ = result(("a", "UINT8", [MAX_JSON_RESULT], b""), ("b", "UINT8", [1], b""))
    with pytest.raises(BadInference, match="JSON may have 2000000: request binary_data"):
        parse_header(header, lambda name: True)
    assert parse_header(header, lambda name: name == "b")


@pytest.mark.parametrize("parameters", cases([{}, {"binary_data_output": False}], core=[{}]))
def test_triton_takes_no_memory_for_a_large_result_as_json(stack: Stack, parameters: dict[str, Any]) -> None:
    """100 MB: Triton would take some 8 GB for JSON of it."""
    side = 10240
    spec = {"name": "labels", "datatype": "UINT8", "shape": [1, 1, side, side], "parameters": {"binary_data_size": side**2}}
    header = json.dumps({"inputs": [spec], "parameters": parameters}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    body = header + bytes(side**2)
    triton = stack.triton()
    before = triton.memory_info().rss
    answer = requests.post(f"{stack.url}/triton/v2/models/label-doubler/infer", body, headers=headers, timeout=120)
    assert answer.status_code == 400 and "request binary_data" in answer.text, answer.text
    assert triton.memory_info().rss - before < 3e9  # of which the tensors themselves are a half


def test_a_small_result_as_json_has_the_values_of_the_binary_one(stack: Stack) -> None:
    image = np.random.default_rng(0).random((1, 3, 32, 32)).astype(np.float32)
    spec = {"name": "image", "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
    url = f"{stack.url}/triton/v2/models/conscientious-seashell/infer"
    plain = requests.post(url, json={"inputs": [spec], "id": "mine"}, timeout=60)
    assert plain.status_code == 200 and "Inference-Header-Content-Length" not in plain.headers
    binary = requests.post(url, json={"inputs": [spec], "parameters": {"binary_data_output": True}}, timeout=60)
    pixels = np.frombuffer(binary.content[int(binary.headers["Inference-Header-Content-Length"]) :], np.float32)
    assert plain.json()["id"] == "mine"
    np.testing.assert_array_equal(np.array(plain.json()["outputs"][0]["data"], np.float32), pixels)
