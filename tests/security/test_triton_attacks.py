"""What hostile requests do to a running stack: they are refused with a sentence, and nobody else notices.

After each of them Triton and all of its processes are the same, readiness was OK all the time, and another client's run is right.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import requests

from tests.security.witness import PROBE, Witness
from tests.stack.harness import RUNNER, Stack
from tests.tiers import cases

MSGPACK = {"Content-Type": "application/msgpack"}


def call(stack: Stack, body: bytes | dict[str, Any]) -> tuple[int, Any]:
    """Status and content of an `execute` over HTTP; arrays stay encoded."""
    data = body if isinstance(body, bytes) else msgpack.packb(body)
    answer = requests.post(f"{stack.url}/public/services/triton-client/execute", data=data, headers=MSGPACK, timeout=120)
    content = msgpack.unpackb(answer.content) if answer.headers["Content-Type"] == MSGPACK["Content-Type"] else answer.json()
    return answer.status_code, content


def run(stack: Stack, request: dict[str, Any], **more: Any) -> tuple[int, Any]:
    return call(stack, {"inputs": [request], "model_name": RUNNER, "serialization": "imjoy", **more})


def array(value: np.ndarray) -> dict[str, Any]:
    return {"_rtype": "ndarray", "_rvalue": value.tobytes(), "_rshape": list(value.shape), "_rdtype": value.dtype.name}


def infer(stack: Stack, model: str, header: Any, data: bytes = b"") -> tuple[int, str]:
    """Status and text of an inference through `/triton`."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(packed))}
    answer = requests.post(f"{stack.url}/triton/v2/models/{model}/infer", data=packed + data, headers=headers, timeout=120)
    return answer.status_code, answer.content.decode(errors="replace")


def tensor(name: str, shape: list[int], size: int, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def kwargs(value: bytes) -> tuple[dict[str, Any], bytes]:
    data = len(value).to_bytes(4, "little") + value
    return {"inputs": [tensor("kwargs", [1], len(data), "BYTES")]}, data


BIG = np.zeros((1, 1, 2048, 2048), np.float32)  # 16 MB


@pytest.mark.parametrize("tile", cases([None, 1, 2, 8], core=[None]))
def test_the_probes_model_is_not_run_for_clients(witness: Witness, tile: int | None) -> None:
    stack = witness.stack
    asked = {} if tile is None else {"tile": tile}
    for model_id in (PROBE, f"/models/{PROBE}/rdf.yaml"):
        status, answer = run(stack, {"model_id": model_id, "inputs": [array(BIG)], **asked})
        assert status == 200 and "is reserved for the server's own readiness probe" in answer["result"]["error"], answer
        header, data = kwargs(msgpack.packb({"model_id": model_id, "inputs": [array(BIG)], **asked}))
        status, text = infer(stack, RUNNER, header, data)
        assert status == 400 and "is reserved for the server's own readiness probe" in text
    for name in (PROBE, f"{PROBE}--onnx"):
        status, answer = call(stack, {"inputs": [array(BIG)], "model_name": name})
        assert status == 400 and "is reserved for the server's own" in answer["error"], answer
        status, text = infer(stack, name, {"inputs": [tensor("image", list(BIG.shape), BIG.nbytes)]}, BIG.tobytes())
        assert status == 400 and "is reserved for the server's own" in text
    assert witness.client.run(PROBE, None)["rdf"], "its description is for all"


def test_a_client_is_refused_more_tiles_than_the_limit(witness: Witness) -> None:
    image = np.zeros((1000, 1000), np.float32)
    request = {"model_id": "drawn-nuclei", "inputs": [image], "axes": "yx"}
    result = witness.client.run(**request, tile=72)
    assert result["success"] is False
    assert "would have to work on 13689 tiles, but one request may have at most 10000" in result["error"], result
    assert "Ask for a larger tile, such as tile={'y': " in result["error"]
    result = witness.client.run(**{**request, "inputs": [image[:200, :200]]}, tile=72)
    assert result["success"], "few of the same size are well"


SEASHELL = "conscientious-seashell"
IMAGE = np.zeros((1, 3, 32, 32), np.float32)
RIGHT = tensor("image", [1, 3, 32, 32], IMAGE.nbytes)
ASKED = kwargs(msgpack.packb({"model_id": SEASHELL}))
DEEP = b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], "data": ' + b"[" * 100_000
PADDED = json.dumps({"inputs": [RIGHT]}).encode() + b" " * 2_000_000
MANY = {"inputs": [RIGHT], "outputs": [{"name": f"o{number}"} for number in range(10_000)]}
SESSION = {"inputs": [tensor("value", [1, 1], 4)], "parameters": {"sequence_id": "x" * 100_000}}
CLASSES = {
    "inputs": [tensor("image", [1, 4, 4], 64)],
    "outputs": [{"name": "info", "parameters": {"classification": 1}}],
}
ELEMENTS = "more elements than any tensor can have"
ONE = "takes one input, `kwargs`"


def image(shape: list[int], size: int) -> dict[str, Any]:
    return {"inputs": [tensor("image", shape, size)]}


def packed(shape: list[int], size: int, datatype: str = "BYTES") -> dict[str, Any]:
    return {"inputs": [tensor("kwargs", shape, size, datatype)]}


WRONG: dict[str, tuple[str, Any, bytes, str]] = {
    "2^32 x 2^32": (SEASHELL, image([2**32, 2**32], 0), b"", ELEMENTS),
    "12288 in 64 bits": (SEASHELL, image([1, 3, 2**32 + 32, 2**32 + 32], 12288), bytes(12288), ELEMENTS),
    "0 in 64 bits": (SEASHELL, image([2**16] * 4, 0), b"", ELEMENTS),
    "negative": (SEASHELL, image([-1, 3, -32, 32], 12288), bytes(12288), "sizes of 0 or more"),
    "too few bytes": (SEASHELL, {"inputs": [RIGHT]}, bytes(100), "and its header and its tensors"),
    "too many bytes": (SEASHELL, {"inputs": [RIGHT]}, bytes(12289), "and its header and its tensors"),
    "deep": (SEASHELL, b'{"inputs": ' + b"[" * 100_000, b"", "is nested too deep"),
    "deep data": (SEASHELL, DEEP, b"", "is nested too deep"),
    "10000 outputs": (SEASHELL, MANY, IMAGE.tobytes(), "it has 10000 outputs, expected at most 64"),
    "unknown output": (SEASHELL, {"inputs": [RIGHT], "outputs": [{"name": "other"}]}, IMAGE.tobytes(), "other"),
    "unknown input": (SEASHELL, {"inputs": [RIGHT, tensor("other", [0], 0)]}, IMAGE.tobytes(), "input"),
    "classes of texts": ("cellpose-like", CLASSES, bytes(64), "sorts no outputs into classes"),
    "no input": (SEASHELL, {"inputs": []}, b"", "input"),
    "large header": (SEASHELL, PADDED, IMAGE.tobytes(), "expected at most 1000000"),
    "empty image": (SEASHELL, image([1, 3, 0, 32], 0), b"", "an empty array of shape (1, 3, 0, 32)"),
    "priority": (SEASHELL, {"inputs": [RIGHT], "parameters": {"priority": -1}}, IMAGE.tobytes(), "priority is -1"),
    "sequence id": ("counter", SESSION, bytes(4), "or a short text"),
    "no sequence": ("counter", {"inputs": [tensor("value", [1, 1], 4)]}, bytes(4), "correlation ID"),
    "version": (f"{SEASHELL}/versions/2", {"inputs": [RIGHT]}, IMAGE.tobytes(), "2"),
    "version of the model runner": (f"{RUNNER}/versions/2", *ASKED, "2"),
    "two elements": (RUNNER, packed([2], 10), b"\1\0\0\0x" * 2, ONE),
    "no element": (RUNNER, packed([0], 0), b"", ONE),
    "numbers": (RUNNER, packed([4], 4, "UINT8"), bytes(4), ONE),
    "no kwargs": (RUNNER, {"inputs": []}, b"", ONE),
    "length of an element": (RUNNER, packed([1], 8), b"\xff\xff\xff\xff1234", "are not the 1 BYTES elements"),
    "output of the model runner": (RUNNER, {**ASKED[0], "outputs": [{"name": "other"}]}, ASKED[1], "other"),
}


def test_wrong_requests_of_tritons_protocol(witness: Witness) -> None:
    for name, (model, header, data, reason) in WRONG.items():
        status, text = infer(witness.stack, model, header, data)
        assert 400 <= status < 500 and reason in text, (name, status, text[:300])
        assert "Traceback" not in text and len(text) < 2000, name


@pytest.mark.parametrize("wrong", [-1000, 1000])
def test_triton_never_has_all_of_a_body_that_does_not_add_up(witness: Witness, wrong: int) -> None:
    """Sent in chunks, so that its length is not known beforehand: the model is not run."""
    header = json.dumps({"inputs": [RIGHT]}).encode()
    before = witness.stack.statistics(SEASHELL)

    def body() -> Iterator[bytes]:
        yield header
        for _ in range((IMAGE.nbytes + wrong) // 8):
            yield bytes(8)

    answer = requests.post(
        f"{witness.stack.url}/triton/v2/models/{SEASHELL}/infer",
        data=body(),
        headers={"Inference-Header-Content-Length": str(len(header))},
        timeout=60,
    )
    assert answer.status_code == 400 and ("it ends within" in answer.text or "it goes on after" in answer.text), answer.text
    assert witness.stack.statistics(SEASHELL) == before


OPTIONS: list[dict[str, Any]] = [
    {"priority": -1}, {"priority": True}, {"timeout": True}, {"timeout": -5}, {"model_version": "2"},
    {"sequence_id": "x" * 100_000}, {"sequence_id": -1}, {"request_id": "x" * 1000}, {"sequence_start": 1},
    {"compression_algorithm": "zip"},
]  # fmt: skip


@pytest.mark.parametrize("options", cases(OPTIONS, core=OPTIONS[:1] + OPTIONS[4:5]), ids=lambda options: str(options)[:40])
def test_options_beyond_their_range_are_refused_by_name(witness: Witness, options: dict[str, Any]) -> None:
    (name,) = options
    for request in (
        {"inputs": [array(np.ones((1, 1), np.float32))], "model_name": "counter"},
        {"inputs": [{"model_id": SEASHELL, "inputs": [array(IMAGE)]}], "model_name": RUNNER, "serialization": "imjoy"},
    ):
        status, answer = call(witness.stack, {**request, **options})
        named = "model_name" if name == "model_version" and request["model_name"] == "counter" else name
        assert status == 400 and f"'{named}' is refused" in answer["error"] and len(answer["error"]) < 500, answer


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "end_run", "triton_model": SEASHELL, "model_id": SEASHELL},
        {"operation": "status", "model_id": SEASHELL, "inputs": [array(IMAGE)]},
        {"shared": "0" * 32, "model_id": SEASHELL, "inputs": [array(IMAGE)]},
    ],
    ids=str,
)
def test_the_model_runners_own_keys_are_refused_by_name(witness: Witness, request_: dict[Any, Any]) -> None:
    status, answer = run(witness.stack, request_)
    assert status == 400 and "the request has the unknown key" in answer["error"], answer
    header, data = kwargs(msgpack.packb(request_))
    status, text = infer(witness.stack, RUNNER, header, data)
    assert status == 400 and "the request has the unknown key" in text


def test_a_key_that_is_there_twice_is_read_once(witness: Witness) -> None:
    """All parts read the request in the same way, because the model runner gets a rewritten one."""
    twice = b"\x83" + b"".join(
        msgpack.packb(item) for item in ("operation", "status", "model_id", SEASHELL, "operation", "end_run")
    )
    header, data = kwargs(twice)
    status, text = infer(witness.stack, RUNNER, header, data)
    assert status == 400 and "unknown key 'operation'" in text
    reference = {"_rtype": "ndarray", "_rfile": "sent-1", "_rshape": [1, 3, 32, 32]}
    files = msgpack.packb({"model_id": SEASHELL, "inputs": [reference]})
    header, data = kwargs(files)
    status, text = infer(witness.stack, RUNNER, header, data)
    assert status == 400 and "kwargs" in text


@pytest.mark.parametrize("parameters", [{}, {"binary_data": False}, {"binary_data": True}])
def test_results_that_are_no_text_do_no_harm_where_text_is_asked_for(witness: Witness, parameters: dict[str, bool]) -> None:
    header, data = ASKED
    outputs = [{"name": "result", "parameters": parameters}]
    status, _ = infer(witness.stack, RUNNER, {**header, "outputs": outputs, "id": "mine"}, data)
    assert status == 200 if parameters.get("binary_data") else status in (200, 400)


@pytest.mark.extended
def test_a_client_in_a_loop_of_refused_requests_never_takes_readiness(witness: Witness) -> None:
    """For longer than two probes; every kind of them, those that Triton itself refuses among them."""
    stack, until, count = witness.stack, time.monotonic() + 8, 0
    stored = {"model_id": SEASHELL, "inputs": [array(IMAGE)]}
    while time.monotonic() < until:
        answers = {
            "version": run(stack, stored, model_version="2"),
            "priority": run(stack, stored, priority=-1),
            "no sequence": call(stack, {"inputs": [array(np.ones((1, 1), np.float32))], "model_name": "counter"}),
            "channels": infer(stack, SEASHELL, image([1, 2, 32, 32], 8192), bytes(8192)),
            "no element": infer(stack, RUNNER, packed([0], 0)),
            "no dict": infer(stack, RUNNER, *kwargs(b"")),
            "version of the model runner": infer(stack, f"{RUNNER}/versions/7", *ASKED),
            "output of the model runner": infer(stack, RUNNER, {**ASKED[0], "outputs": [{"name": "x"}]}, ASKED[1]),
        }
        if any(status == 429 for status, _ in answers.values()):
            time.sleep(0.5)  # Hypha's own limit of requests in a second
            continue
        assert all(status in (400, 404) for status, _ in answers.values()), answers
        count += 1
    assert count > 10 and witness.looked > 20
    assert "Replacing the model runner's instances" not in stack.log
