"""Models run over plain HTTP and in Triton's protocol: right and wrong bodies, through all of the middleware, on fakes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract import message
from bioengine_contract.ids import RUNNER
from bioengine_contract.msgpack_scan import MAX_VALUES
from bioengine_contract.triton_model import TritonModel

from tests.unit.server.test_dispatcher import IMAGE, FakeWorker
from tests.unit.server.web import FakeAnswer, Web

SERVICE = "/public/services/triton-client"
INFER = f"/triton/v2/models/{RUNNER}/infer"
MSGPACK = "application/msgpack"
REQUEST = {"model_name": RUNNER, "serialization": "imjoy", "inputs": [{"model_id": "shark", "inputs": [IMAGE]}]}


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


def execute(**changes: Any) -> tuple[str, str, bytes]:
    return "POST", f"{SERVICE}/execute", message.encode({**REQUEST, **changes})


def infer(header: Any, data: bytes = b"") -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an inference request of Triton's protocol."""
    packed = json.dumps(header).encode()
    return packed + data, {"inference_header_content_length": str(len(packed))}


def run_request(**changes: Any) -> tuple[bytes, dict[str, str]]:
    """An inference request for the model runner."""
    content = message.encode({"model_id": "shark", "inputs": [IMAGE], **changes})
    data = len(content).to_bytes(4, "little") + content
    tensor = {"name": "kwargs", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
    return infer({"inputs": [tensor], "outputs": [{"name": "result", "parameters": {"binary_data": True}}]}, data)


# --- plain HTTP


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_a_model_is_run(web: Web, encoding: str) -> None:
    method, path, body = execute()
    body = gzip.compress(body) if encoding else body
    response = await web.ask(method, path, body, content_type=MSGPACK, content_encoding=encoding)
    result = message.decode(response.content)["result"]
    assert response.headers["content-type"] == MSGPACK and result["success"], result
    np.testing.assert_array_equal(result["outputs"][0], IMAGE + 1)
    assert web.server.counts() == {("shark", "done", ""): 1}


async def test_a_model_is_run_with_json(web: Web) -> None:
    array = {"_rtype": "ndarray", "_rvalue": "AAAAAA==", "_rshape": [1, 1, 1], "_rdtype": "float32"}
    arguments = {**REQUEST, "inputs": [{"model_id": "shark", "inputs": [array]}], "context": {"user": {"id": "root"}}}
    response = await web.ask("POST", f"{SERVICE}/execute", json.dumps(arguments).encode(), content_type="application/json")
    result = response.json()["result"]
    assert result["success"] and result["outputs"][0]["_rshape"] == [1, 1, 1] and result["outputs"][0]["_rvalue"] == "AACAPw=="


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"no json", {}, "cannot be read as application/json"),
        (b"[1]", {}, "not an object with arguments"),
        (b"\xc1", {"content_type": MSGPACK}, "cannot be read as application/msgpack"),
        (message.encode([1]), {"content_type": MSGPACK}, "not an object with arguments"),
        (b"{}", {"content_type": "text/plain"}, "Content-Type is 'text/plain'"),
        (b"{}", {"content_encoding": "br"}, "Content-Encoding 'br'"),
        (b"{}", {"content_encoding": "gzip"}, "is not gzip"),
        (gzip.compress(b"{}")[:-4], {"content_encoding": "gzip"}, "not complete"),
        (gzip.compress(b"{}") + b"x", {"content_encoding": "gzip"}, "more data after the end"),
        (b'{"a": ' + b"1" * 1001 + b"}", {}, "a number of 1001 digits"),
        (b'{"a": [' + b"1," * MAX_VALUES + b"1]}", {}, "send numbers as arrays"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, "cannot be read"),
    ],
)
async def test_a_body_that_is_none_is_refused_and_counted(web: Web, body: bytes, headers: dict[str, str], expected: str) -> None:
    response = await web.ask("POST", f"{SERVICE}/execute", body, **headers)
    assert response.status_code == 400 and response.json()["code"] == "bad_body" and expected in response.json()["error"]
    assert web.server.counts() == {("unknown", "bad_body", ""): 1}


@pytest.mark.parametrize(
    ("send", "headers"),
    [
        (lambda body: body, {"content_length": "1000"}),
        (lambda body: [body[:100], body[100:]], {}),
        (lambda body: gzip.compress(bytes(100_000)), {"content_encoding": "gzip"}),
    ],
)
async def test_a_body_above_the_limit_is_refused_and_counted(
    tmp_path: Path, send: Callable[[bytes], Any], headers: dict[str, str]
) -> None:
    web = Web(tmp_path, anonymous_max_request_size=150)
    method, path, body = execute()
    response = await web.ask(method, path, send(body), content_type=MSGPACK, **headers)
    assert response.status_code == 413 and response.json()["code"] == "too_large", response.text
    assert web.server.counts() == {("unknown", "too_large", ""): 1}
    token = await web.token(max_size=10_000)
    answer = await web.ask(method, path, body, content_type=MSGPACK, authorization=token["Authorization"])
    assert answer.status_code == 200 and message.decode(answer.content)["result"]["success"]


async def test_wrong_arguments_are_a_400_that_names_them(web: Web) -> None:
    response = await web.ask(*execute(colour="red"), content_type=MSGPACK)
    assert response.status_code == 400 and response.json()["code"] == "bad_argument" and "'colour'" in response.json()["error"]
    assert web.server.counts() == {("shark", "bad_argument", ""): 1}
    response = await web.ask("GET", f"{SERVICE}/get_config?model_name=missing")
    assert response.status_code == 400 and "missing" in response.json()["error"]
    assert (await web.ask("GET", f"{SERVICE}/get_config?model_name=shark")).json()["name"] == "shark"
    assert (await web.ask("GET", f"{SERVICE}/get_status")).json()["ready"] is None
    response = await web.ask("POST", f"{SERVICE}/cancel", b'{"task_id": "none"}')
    assert response.status_code == 404 and response.json()["code"] == "no_such_request"
    assert web.server.counts() == {("shark", "bad_argument", ""): 1}, "these run no models"


async def test_a_fault_of_the_servers_own_tells_nothing_of_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(web.server.service, "execute", fails)
    response = await web.ask(*execute(), content_type=MSGPACK)
    assert response.status_code == 500 and response.json()["code"] == "server_failed" and "secret" not in response.text
    assert web.server.counts() == {("shark", "server_failed", ""): 1}


# --- Triton's protocol


async def test_triton_tells_no_version_and_no_closed_extensions(web: Web) -> None:
    about = (await web.ask("GET", "/triton/v2")).json()
    assert about == {"name": "triton", "extensions": ["binary_tensor_data"], "version": ""}
    live = await web.ask("GET", "/triton/v2/health/live")
    assert live.status_code == 200 and "server" not in live.headers
    web.triton.is_away = True
    away = await web.ask("GET", "/triton/v2/health/ready")
    assert away.status_code == 503 and away.json()["code"] == "inference_server_unavailable" and away.headers["retry-after"]


async def test_a_models_metadata_is_that_of_its_configuration(web: Web) -> None:
    metadata = (await web.ask("GET", "/triton/v2/models/shark")).json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, -1, -1]}]
    assert metadata["outputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    missing = await web.ask("GET", "/triton/v2/models/missing/config")
    assert missing.status_code == 404 and missing.json()["code"] == "model_not_found" and web.server.counts() == {}


async def test_the_model_runner_is_answered_in_tritons_protocol(web: Web) -> None:
    body, headers = run_request()
    response = await web.ask("POST", INFER, body, **headers)
    length = int(response.headers["inference-header-content-length"])
    document = json.loads(response.content[:length])
    result = message.decode(response.content[length + 4 :])
    assert document["model_name"] == RUNNER and result["success"], result
    np.testing.assert_array_equal(result["outputs"][0], IMAGE + 1)
    refused = await web.ask("POST", f"/triton/v2/models/{RUNNER}/versions/2/infer", body, **headers)
    assert refused.status_code == 404 and web.server.counts()["unknown", "model_not_found", ""] == 1


@pytest.mark.parametrize(
    ("header", "data", "code"),
    [
        ({"inputs": []}, b"", "bad_inference"),
        ([], b"", "bad_inference"),
        ({"inputs": [{"name": "kwargs", "datatype": "FP32", "shape": [1], "data": [1]}]}, b"", "bad_inference"),
        ({"inputs": [{"name": "kwargs", "datatype": "FP99", "shape": [1], "data": [1]}]}, b"", "bad_inference"),
        ({"inputs": [{"name": "kwargs", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}, b"", "bad_body"),
        (
            {"inputs": [{"name": "kwargs", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]},
            b"\x05\0\0\0hello too long",
            "bad_body",
        ),
        (
            {
                "inputs": [
                    {
                        "name": "a",
                        "datatype": "FP32",
                        "shape": [1],
                        "parameters": {"shared_memory_region": "x", "binary_data_size": 4},
                    }
                ]
            },
            b"1234",
            "forbidden",
        ),
    ],
)
async def test_requests_in_tritons_protocol_that_do_not_add_up_are_refused_and_counted(
    web: Web, header: Any, data: bytes, code: str
) -> None:
    body, headers = infer(header, data)
    response = await web.ask("POST", INFER, body, content_length=str(len(body)), **headers)
    assert response.json()["code"] == code and response.status_code in (400, 403), response.text
    assert web.server.counts() == {("unknown", code, ""): 1}


@pytest.mark.parametrize("length", ["x", "-1", "99999999999", "1000"])
async def test_a_header_of_a_wrong_length_is_refused(web: Web, length: str) -> None:
    body, _ = run_request()
    response = await web.ask("POST", INFER, body[:500], inference_header_content_length=length)
    assert response.status_code == 400 and response.json()["code"] == "bad_body"


class AnsweringWorker(FakeWorker):
    """A fake that answers inference requests for Triton models with one tensor of two numbers."""

    async def forward(self, model: TritonModel, version: str, body: Any, headers: Any, follower: Any) -> Any:
        self.inferred.append(model.name)
        self.body = b"".join([part async for part in body()])
        output = {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
        header = json.dumps({"model_name": model.name, "model_version": "1", "outputs": [output]}).encode()
        data = np.array([1, np.inf], np.float32).tobytes()
        self.answer = FakeAnswer(header + data, {"inference-header-content-length": str(len(header))})
        return self.answer


@pytest.mark.parametrize("as_json", [False, True])
async def test_a_stored_model_is_run_as_a_triton_model(tmp_path: Path, as_json: bool) -> None:
    worker = AnsweringWorker()
    web = Web(tmp_path, worker=worker)
    tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": [1, 2]}
    sent = {**tensor, "data": [1.0, 2.0]} if as_json else {**tensor, "parameters": {"binary_data_size": 8}}
    output = {"name": "y", "parameters": {"binary_data": not as_json}}
    body, headers = infer({"inputs": [sent], "outputs": [output]}, b"" if as_json else np.array([1, 2], np.float32).tobytes())
    response = await web.ask("POST", "/triton/v2/models/shark/infer", body, **({} if as_json else headers))
    assert response.status_code == 200 and worker.inferred == ["shark"] and worker.answer.is_released, response.text
    assert worker.body.endswith(np.array([1, 2], np.float32).tobytes()), "JSON tensors are made binary"
    if as_json:
        assert response.json()["outputs"][0]["data"] == [1.0, None], "JSON has no infinity"
    else:
        length = int(response.headers["inference-header-content-length"])
        assert response.content[length:] == np.array([1, np.inf], np.float32).tobytes()
    missing = await web.ask("POST", "/triton/v2/models/missing/infer", body, **({} if as_json else headers))
    assert missing.status_code == 404 and missing.json()["code"] == "model_not_found"
    assert web.server.counts() == {("shark", "done", ""): 1, ("unknown", "model_not_found", ""): 1}
