"""Inference requests: what is right passes as it is, and whatever is wrong about one is refused with a sentence of ours."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from bioengine_contract.errors import BioEngineError
from bioengine_server.access.errors import BadBody
from bioengine_server.http.triton_request import BadInference, parse
from bioengine_server.http.triton_tensors import DATATYPES, Segment, counted
from bioengine_server.network.errors import Forbidden
from bioengine_server.triton.infer_options import MAX_TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

NUMBERS = [name for name in DATATYPES if name not in ("BYTES", "FP16", "BF16")]
NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20)
TEXTS = st.lists(st.binary(max_size=300), max_size=30)


def header(**changes: Any) -> dict[str, Any]:
    """A right request of one FP32 tensor of 2 x 3; `changes` of that tensor."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}, **changes}
    return {"inputs": [tensor]}


def parsed(document: Any, has_length: bool = True) -> Any:
    return parse(document if isinstance(document, bytes) else json.dumps(document).encode(), has_length)


def in_bytes(texts: list[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


async def through(segments: list[Segment], data: bytes, pieces: list[int]) -> list[bytes]:
    """What of `data`, cut into `pieces`, gets through before anything is refused."""

    async def parts() -> AsyncIterator[bytes]:
        rest = data
        for size in pieces:
            if rest[:size]:
                yield rest[:size]
            rest = rest[size:]
        if rest:
            yield rest

    passed: list[bytes] = []
    try:
        async for part in counted(parts(), segments):
            passed.append(bytes(part))
    except BadBody as error:
        return [*passed, b"refused: " + str(error).encode()]
    return passed


@st.composite
def right_requests(draw: Any) -> tuple[dict[str, Any], bytes]:
    """The JSON header and the binary part of a request that is right."""
    inputs, data = [], b""
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        datatype = draw(st.sampled_from([*DATATYPES]))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        elements = math.prod(shape)
        if datatype == "BYTES":
            content = in_bytes([draw(st.binary(max_size=20)) for _ in range(elements)])
        else:
            content = bytes(elements * (DATATYPES[datatype] or 0))
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if datatype in ("INT32", "FP64") and draw(st.booleans()):
            tensor["data"] = [0] * elements
        else:
            tensor["parameters"] = {"binary_data_size": len(content)}
            data += content
        inputs.append(tensor)
    document: dict[str, Any] = {"inputs": inputs}
    outputs = draw(st.lists(NAMES, max_size=3, unique=True))
    if outputs:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": draw(st.booleans())}} for name in outputs]
    if draw(st.booleans()):
        document["id"] = "mine"
        document["parameters"] = {"priority": draw(st.integers(0, 2**32 - 1)), "sequence_id": draw(st.integers(0, 2**64 - 1))}
    return document, data


@given(right_requests(), st.lists(st.integers(0, 40), max_size=10))
async def test_what_is_right_passes_unchanged(request_: tuple[dict[str, Any], bytes], pieces: list[int]) -> None:
    document, data = request_
    request = parsed(document)
    assert b"".join(await through(request.streamed, data, pieces)) == data
    written = json.loads(request.header())
    kept = {item["name"]: (item["datatype"], item["shape"]) for item in written["inputs"]}
    assert kept == {item["name"]: (item["datatype"], item["shape"]) for item in document["inputs"]}
    sizes = sum(item["parameters"]["binary_data_size"] for item in written["inputs"])
    assert sizes == len(request.from_json) + len(data)
    assert [output["name"] for output in written.get("outputs", [])] == [item["name"] for item in document.get("outputs", [])]
    assert written.get("id", "") == document.get("id", "")
    assert written["parameters"] == {**document.get("parameters", {}), "binary_data_output": True}
    assert all(output["parameters"] == {"binary_data": True} for output in written.get("outputs", []))
    # The JSON tensors come first, and then the others as they came.
    again = parsed(written)
    assert [segment.name for segment in again.streamed][-len(request.streamed) or len(written["inputs"]) :] == [
        segment.name for segment in request.streamed
    ]


ODD = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.just("x" * 100_000), st.integers(-(2**70), 2**70),
    st.lists(st.integers(-3, 2**70), max_size=3), st.just([[]] * 50),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=400)
@given(right_requests(), ODD, st.data())
async def test_what_is_changed_is_refused_or_still_adds_up(
    request_: tuple[dict[str, Any], bytes], odd: Any, data: st.DataObject
) -> None:
    """One value of the header replaced by any other: an error of ours and no other, or a request that is right in itself."""
    document, content = copy.deepcopy(request_[0]), request_[1]
    places: list[tuple[Any, Any]] = []
    pending: list[Any] = [document]
    while pending:
        item = pending.pop()
        for key in item if isinstance(item, dict) else range(len(item)):
            places.append((item, key))
            if isinstance(item[key], (dict, list)):
                pending.append(item[key])
    item, key = data.draw(st.sampled_from(places))
    if data.draw(st.booleans()) and isinstance(item, dict):
        item["unknown"] = odd
    else:
        item[key] = odd
    try:
        request = parsed(document)
    except BioEngineError as error:
        assert type(error) in (BadInference, Forbidden) and len(str(error)) < 1000
        return
    passed = await through(request.streamed, content, [])
    for tensor in json.loads(request.header())["inputs"]:
        assert all(type(size) is int and size >= 0 for size in tensor["shape"])
        if tensor["datatype"] != "BYTES":
            size = math.prod(tensor["shape"]) * (DATATYPES[tensor["datatype"]] or 0)
            assert tensor["parameters"]["binary_data_size"] == size
    if not (passed and passed[-1].startswith(b"refused")):
        assert sum(segment.size for segment in request.streamed) == len(content)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": [2**32, 2**32], "parameters": {"binary_data_size": 0}}, "more elements than any tensor can have"),
        ({"shape": [2**31, 2**31, 4], "parameters": {"binary_data_size": 0}}, "more elements than any tensor can have"),
        ({"shape": [2**40, 0, 2**40], "parameters": {"binary_data_size": 0}}, "more elements than any tensor can have"),
        ({"shape": [2, 2**63 - 1], "parameters": {"binary_data_size": 0}}, "expected a list of at most 32 sizes"),
        ({"shape": [-2, -3]}, "expected a list of at most 32 sizes"),
        ({"shape": [2, True]}, "expected a list of at most 32 sizes"),
        ({"shape": [2.0, 3]}, "expected a list of at most 32 sizes"),
        ({"shape": [1] * 33}, "expected a list of at most 32 sizes"),
        ({"shape": "23"}, "expected a list of at most 32 sizes"),
        ({"shape": [2, 4]}, "has 32 bytes, and its binary_data_size is 24"),
        ({"parameters": {"binary_data_size": True}}, "has no data: expected `data`, or binary_data_size"),
        ({"parameters": {"binary_data_size": "24"}}, "has no data: expected `data`, or binary_data_size"),
        ({"parameters": {}}, "has no data: expected `data`, or binary_data_size"),
        ({"parameters": {"binary_data_size": 24, "priority": 1}}, "the parameter priority has no meaning for the input 'image'"),
        ({"datatype": "FP33"}, "has the datatype 'FP33', expected one of BOOL"),
        ({"datatype": ["FP32"]}, "has the datatype a list, expected one of BOOL"),
        ({"datatype": "BYTES", "shape": [MAX_TEXTS + 1]}, f"has {MAX_TEXTS + 1} BYTES elements, expected at most {MAX_TEXTS}"),
        ({"name": ""}, "a tensor has the name ''"),
        ({"name": "a\nb"}, "a tensor has the name 'a\\nb'"),
        ({"name": "x" * 201}, "expected at most 200 printable characters"),
        ({"name": 5}, "a tensor has the name 5"),
        ({"data": [0] * 6}, "has both data and binary_data_size"),
        ({"content": 1}, "has the unknown key 'content'"),
    ],
)  # fmt: skip
def test_tensors_that_are_wrong(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInference) as refused:
        parsed(header(**changes))
    assert reason in str(refused.value), refused.value


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"parameters": {"priority": -1}}, "its parameter priority is -1, expected a whole number from 0 to 4294967295"),
        ({"parameters": {"priority": True}}, "its parameter priority is true"),
        ({"parameters": {"timeout": True}}, "its parameter timeout is true"),
        ({"parameters": {"timeout": 2**63}}, "its parameter timeout is 9223372036854775808"),
        ({"parameters": {"timeout": 1.5}}, "its parameter timeout is 1.5"),
        ({"parameters": {"sequence_id": "x" * 100_000}}, "expected a whole number of 64 bits or a short text"),
        ({"parameters": {"sequence_id": 2**64}}, "expected a whole number of 64 bits or a short text"),
        ({"parameters": {"sequence_id": "a\nb"}}, "expected a whole number of 64 bits or a short text"),
        ({"parameters": {"sequence_start": 1}}, "expected true or false"),
        ({"parameters": {"binary_data_output": "yes"}}, "expected true or false"),
        ({"parameters": {"classification": 5}}, "the parameter classification has no meaning for the request"),
        ({"id": "x" * 129}, "its id is 'xxx"),
        ({"id": 5}, "its id is 5"),
        ({"model_name": "other"}, "the request has the unknown key 'model_name'"),
        ({"outputs": [{"name": f"o{number}"} for number in range(10_000)]}, "it has 10000 outputs, expected at most 64"),
        ({"outputs": [{"name": "mask"}, {"name": "mask"}]}, "the tensor 'mask' is named twice"),
        ({"outputs": [{"name": "mask", "parameters": {"classification": 1}}]}, "sorts no outputs into classes"),
        ({"outputs": [{"name": "mask", "parameters": {"classification": -1}}]}, "sorts no outputs into classes"),
        ({"outputs": [{"name": "mask", "parameters": {"binary_data": 1}}]}, "expected true or false"),
        ({"outputs": [{"name": "mask", "shape": [1]}]}, "has the unknown key 'shape'"),
        ({"inputs": header()["inputs"] * 2}, "the tensor 'image' is named twice"),
        ({"inputs": [dict(header()["inputs"][0], name=f"i{number}") for number in range(65)]}, "it has 65 inputs"),
    ],
)  # fmt: skip
def test_options_that_are_wrong(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInference) as refused:
        parsed({**header(), **more})
    assert reason in str(refused.value) and len(str(refused.value)) < 500, refused.value


@pytest.mark.parametrize(
    ("datatype", "data", "reason"),
    [
        ("FP32", [0] * 5, "has 5 values, not 6"),
        ("FP32", [[0, 0, 0], [0, 0]], "has 5 values, not 6"),
        ("FP32", [0, [0], 0, 0, 0, 0], "has values and lists side by side"),
        ("FP32", 5, "has to be a list"),
        ("FP32", [True] * 6, "has to be numbers"),
        ("FP32", ["0"] * 6, "has to be numbers"),
        ("FP32", [1e300] * 6, "has numbers beyond its range"),
        ("FP64", [10**400] * 6, "has numbers beyond its range"),
        ("INT8", [200] * 6, "has to be whole numbers from -128 to 127"),
        ("UINT64", [-1] * 6, "has to be whole numbers from 0 to"),
        ("INT32", [1.0] * 6, "has to be whole numbers"),
        ("BOOL", [1] * 6, "has to be true and false"),
        ("BYTES", [1] * 6, "has to be strings"),
        ("FP16", [0] * 6, "has to be binary"),
    ],
)
def test_json_tensors_that_are_wrong(datatype: str, data: Any, reason: str) -> None:
    with pytest.raises(BadInference, match=reason):
        parsed({"inputs": [{"name": "image", "datatype": datatype, "shape": [2, 3], "data": data}]}, has_length=False)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_json_tensors_become_binary(datatype: str) -> None:
    values = [True, False] if datatype == "BOOL" else [1, 0]
    for data in (values, [[values[0]], [values[1]]]):
        document = {"inputs": [{"name": "image", "datatype": datatype, "shape": [2, 1], "data": data}]}
        content = parsed(document, has_length=False).from_json
        dtype = "bool" if datatype == "BOOL" else datatype.lower().replace("fp", "float")
        np.testing.assert_array_equal(np.frombuffer(content, dtype), values)


@given(st.lists(st.text(max_size=20), max_size=10))
def test_json_texts_become_binary(texts: list[str]) -> None:
    document = {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [len(texts)], "data": texts}]}
    assert parsed(document, has_length=False).from_json == in_bytes([text.encode("utf-8", "surrogatepass") for text in texts])


@pytest.mark.parametrize("binary", [True, False])
def test_what_tritonclient_sends_is_right(binary: bool) -> None:
    image, text = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([b'{"diameter": 30}'], np.object_)
    inputs = [InferInput("image", [2, 3], "FP32"), InferInput("param", [1], "BYTES")]
    inputs[0].set_data_from_numpy(image, binary_data=binary)
    inputs[1].set_data_from_numpy(text, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body(
        inputs=inputs, request_id="mine", outputs=[InferRequestedOutput("mask", binary_data=binary)],
        sequence_id="session", sequence_start=True, sequence_end=False, priority=3, timeout=1_000_000,
    )  # fmt: skip
    request = parsed(body if length is None else body[:length], has_length=length is not None)
    data = request.from_json if length is None else body[length:]
    assert data == image.tobytes() + in_bytes([text[0]])
    assert request.id == "mine" and request.outputs[0].binary_data is binary
    assert request.parameters["sequence_id"] == "session" and request.parameters["timeout"] == 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b"words", b"{", b'{"inputs": 5}', b"[" * 100_000, b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": [' + b"{" * 100_000, b'{"inputs": [{"shape": [' + b"9" * 5000 + b"]}]}", b"\xff\xfe\x00",
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [NaN]}]}', b'{"a":' * 50_000,
        b'{"inputs": [{"name": "i", "datatype": "FP32", "shape": [1], "data": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}]}",
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_json_that_is_none_or_deep(text: bytes) -> None:
    with pytest.raises(BadInference):
        parse(text, True)


@pytest.mark.parametrize("filler", [b"[]", b"{}", b"1e5", b'""'])
def test_json_takes_no_multiple_of_its_memory(filler: bytes) -> None:
    """15 MB of the smallest values: refused before they are unpacked."""
    text = b'{"inputs": [' + b",".join([filler] * (15_000_000 // (len(filler) + 1))) + b"]}"
    tracemalloc.start()
    with pytest.raises(BadInference):
        parse(text, False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(text)


@given(TEXTS, st.lists(st.integers(0, 50), max_size=20))
async def test_texts_are_counted_however_they_are_cut(texts: list[bytes], pieces: list[int]) -> None:
    data = in_bytes(texts)
    right = [Segment("t", len(data), len(texts))]
    assert b"".join(await through(right, data, pieces)) == data
    for wrong in (len(texts) + 1, *([len(texts) - 1] if texts else [])):
        passed = await through([Segment("t", len(data), wrong)], data, pieces)
        assert passed[-1].startswith(b"refused") and len(b"".join(passed[:-1])) < max(len(data), 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", b"it ends within the tensor 'kwargs'"),
        (b"\x01\0\0", b"it ends within the tensor 'kwargs'"),
        (b"\x05\0\0\0x", b"it ends within the tensor 'kwargs'"),
        (b"\x03\0\0\0xx", b"are not the 1 BYTES elements of its shape"),
        (b"\xff\xff\xff\xffxx", b"are not the 1 BYTES elements of its shape"),
        (b"\x01\0\0\0xx", b"has more than the 1 BYTES elements"),
        (b"\x02\0\0\0xxx", b"it goes on after its tensors, which have 6 bytes"),
    ],
)  # fmt: skip
async def test_an_element_whose_length_is_another(data: bytes, reason: bytes) -> None:
    passed = await through([Segment("kwargs", 6, 1)], data, [1] * 20)
    assert reason in passed[-1] and len(b"".join(passed[:-1])) < 6


@given(st.integers(0, 100), st.integers(0, 100), st.lists(st.integers(1, 30), max_size=10))
async def test_the_end_of_a_wrong_body_is_never_passed_on(wanted: int, given_: int, pieces: list[int]) -> None:
    passed = await through([Segment("image", wanted)], bytes(given_), pieces)
    if wanted == given_:
        assert b"".join(passed) == bytes(given_)
    else:
        assert passed[-1].startswith(b"refused") and len(b"".join(passed[:-1])) < max(wanted, 1)
