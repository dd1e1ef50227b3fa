"""Triton's own protocol behind `/triton`: what passes, what is refused in every spelling, and that bodies stream."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import requests

from tests.mirror import Mirror
from tests.stack.harness import RUNNER, Stack, example_input
from tests.tiers import cases

MODEL = "/triton/v2/models/conscientious-seashell"


def ask(stack: Stack, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer; the path goes as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": array.shape, "datatype": datatype, "parameters": {"binary_data_size": array.nbytes}}


def infer(stack: Stack, path: str, header: dict[str, Any] | bytes, data: bytes = b"") -> tuple[int, Any]:
    """Status and, of an error, its text; otherwise the outputs' JSON header."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    answer = requests.post(
        f"{stack.url}{path}/infer", data=packed + data, headers={"Inference-Header-Content-Length": str(len(packed))}
    )
    if answer.status_code >= 400:
        return answer.status_code, answer.json()["error"]
    length = int(answer.headers.get("Inference-Header-Content-Length", len(answer.content)))
    return answer.status_code, json.loads(answer.content[:length])


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (1, 3, 32, 32)).astype(np.float32)


def works(stack: Stack) -> bool:
    return infer(stack, MODEL, {"inputs": [tensor("image", image())]}, image().tobytes())[0] == 200


NOT_FOR_CLIENTS = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/conscientious-seashell/load"),
    ("POST", "/v2/repository/models/conscientious-seashell/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/systemsharedmemory/region/x/status"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/x/register"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/stats/config"),
    ("GET", "/v2/models/counter/stats"),
    ("GET", "/v2/models/counter/versions/1/stats"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", "/v2/models/counter/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/metrics"),
    ("GET", "/v2/metrics"),
    ("POST", "/v2/models/counter/generate"),
    ("POST", "/v2/models/counter/generate_stream"),
    ("GET", "/v2/models"),
    ("GET", ""),
    ("GET", "/"),
]
OTHER_METHODS = [
    ("POST", "/v2"),
    ("PUT", "/v2"),
    ("DELETE", "/v2/models/counter"),
    ("PATCH", "/v2/models/counter"),
    ("OPTIONS", "/v2/models/counter"),
    ("POST", "/v2/health/live"),
    ("POST", "/v2/models/counter/config"),
    ("GET", "/v2/models/counter/infer"),
    ("PUT", "/v2/models/counter/infer"),
]
SPELLINGS = [
    "/triton/v2/../v2/repository/index",
    "/triton/./v2/repository/index",
    "/triton/v2/models/../repository/index",
    "/triton/v2/models/counter/../../repository/index",
    "/triton/v2/%2e%2e/v2/repository/index",
    "/triton/v2/models/%2e%2e/repository/index",
    "/triton/v2/models/..%2frepository%2findex",
    "/triton/v2/models/..%252frepository%252findex",
    "/triton/%76%32/repository/index",
    "/triton/v2%2frepository%2findex",
    "/triton%2fv2/repository/index",
    "/%74riton/v2/repository/index",
    "/%74riton/v2",
    "//triton/v2/repository/index",
    "/./triton/v2",
    "/triton//v2/repository/index",
    "/triton/v2//repository/index",
    "/triton/v2/models//config",
    "/Triton/v2",
    "/TRITON/V2/REPOSITORY/INDEX",
    "/triton/V2/models/counter/config",
    "/triton/v2/models/counter/Config",
    "/triton/v2/",
    "/triton/v2/health/live/",
    "/triton/v2/models/counter/",
    "/triton/v2/models/counter/config/",
    "/triton/v2;x/repository/index",
    "/triton;x/v2",
    "/triton/v2/models/counter;x/config",
    "/triton/v2/models/counter/config;x",
    "/triton/v2/models/counter%2fconfig",
    "/triton/v2/models/counter/config%3fx",
    "/triton/v2/models/counter/config%23",
    "/triton/v2/models/counter/config%00",
    "/triton/v2/models/counter/config%0d%0aX:%20y",
    "/triton/v2/models/counter\\..\\..\\repository/index",
    "/triton/v2/models/.counter/config",
    "/triton/v2/models/counter/versions/1/../1/config",
    "/triton/v2/models/counter/versions/one/config",
    "/triton/v2/models/counter/versions//config",
    f"/triton/v2/models/{'x' * 300}/config",
]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, f"/triton{path}") for method, path in NOT_FOR_CLIENTS + OTHER_METHODS),
        *((method, path) for path in SPELLINGS for method in ("GET", "POST")),
    ],
)
def test_everything_else_is_refused_with_a_reason(stack: Stack, method: str, path: str) -> None:
    status, body = ask(stack, method, path, b"{}" if method == "POST" else b"")
    assert status == 403, body
    error = json.loads(body)["error"]
    assert error.startswith(f"{method} /") and "is refused: clients can ask for the health" in error
    assert "Spell the path plainly" in error


def test_head_is_refused_too(stack: Stack) -> None:
    assert ask(stack, "HEAD", "/triton/v2") == (403, b"")


@pytest.mark.parametrize("query", ["?", "?x=1", "?/../../repository/index", "?%2e%2e/stats", "?a;b#c"])
def test_a_query_changes_nothing(stack: Stack, query: str) -> None:
    for path in ("/triton/v2", "/triton/v2/models/counter", "/triton/v2/models/counter/config"):
        assert ask(stack, "GET", path + query) == ask(stack, "GET", path)


def test_the_secret_of_closed_apis_is_not_passed_on(stack: Stack) -> None:
    status, _ = ask(stack, "POST", "/triton/v2/repository/index", b"{}", bioengine_secret="x" * 40)
    assert status == 403


SHARED = {"shared_memory_region": "x", "shared_memory_byte_size": 12288}


@pytest.mark.parametrize(
    "parameters",
    [
        SHARED,
        {"shared_memory_region": "x"},
        {"shared_memory_offset": 0},
        {"Shared_Memory_Region": "x"},
        {"shared_memory_region ": "x"},
        {"binary_data_size": 12288, **SHARED},
        {"triton_enable_empty_final_response": True},
        {"": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["request", "input", "output"])
def test_what_shares_memory_is_refused_by_its_name(stack: Stack, parameters: dict[str, Any], place: str) -> None:
    given, wanted = tensor("image", image()), {"name": "mask"}
    header: dict[str, Any] = {"inputs": [given], "outputs": [wanted]}
    {"request": header, "input": given, "output": wanted}[place]["parameters"] = parameters
    status, error = infer(stack, MODEL, header, image().tobytes())
    refused = sorted(set(parameters) - {"binary_data_size"})[0]
    assert status == 403 and error.startswith(f"The parameter {refused!r} is refused: send tensors in the request"), error


@pytest.mark.parametrize("place", ["request", "input", "output"])
@pytest.mark.parametrize("parameters", [[SHARED], "shared_memory_region", None, 5])
def test_parameters_that_are_no_object_are_refused(stack: Stack, parameters: Any, place: str) -> None:
    given, wanted = tensor("image", image()), {"name": "mask"}
    header: dict[str, Any] = {"inputs": [given], "outputs": [wanted]}
    {"request": header, "input": given, "output": wanted}[place]["parameters"] = parameters
    assert infer(stack, MODEL, header, image().tobytes())[0] == 400


def test_spellings_of_json_are_read_as_triton_reads_them(stack: Stack) -> None:
    """Escapes are decoded before anything is judged, and of two that have one name Triton gets the one that was judged."""
    header = json.dumps({"inputs": [tensor("image", image())]})
    escaped = header.replace('"binary_data_size"', '"\\u0073hared_memory_region": "x", "binary_data_size"')
    status, error = infer(stack, MODEL, escaped.encode(), image().tobytes())
    assert status == 403 and "'shared_memory_region'" in error
    first = header.replace('"parameters"', '"parameters": {"shared_memory_region": "x"}, "parameters"')
    assert infer(stack, MODEL, first.encode(), image().tobytes())[0] == 200
    nested = header.replace(f'"binary_data_size": {image().nbytes}', '"binary_data_size": {"shared_memory_region": "x"}')
    assert infer(stack, MODEL, nested.encode(), image().tobytes())[0] == 400


@pytest.mark.parametrize(
    "header",
    [
        b"", b"[]", b"null", b"words", b"{", b'{"inputs": 5}', b'{"inputs": [5]}', b'{"inputs": {}}', b'{"outputs": "mask"}',
        b"[" * 5000, b'{"inputs": ' + b"[" * 100_000, b'{"inputs": [{"shape": [' + b"9" * 5000 + b"]}]}",
        b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [NaN]}]}', b"\xff\xfe\x00",
    ],
    ids=lambda header: repr(header[:30]),
)  # fmt: skip
def test_a_header_that_is_none_is_400(stack: Stack, header: bytes) -> None:
    status, error = infer(stack, MODEL, header)
    assert status == 400 and error and "Traceback" not in error
    assert works(stack)


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "\xb2", "", "five", "5, 5", "99999999", "9" * 400])
def test_a_length_of_the_header_that_is_none_is_400(stack: Stack, length: str) -> None:
    status, body = ask(stack, "POST", f"{MODEL}/infer", b'{"inputs": []}', Inference_Header_Content_Length=length)
    assert status == 400 and json.loads(body)["error"], body


@pytest.mark.parametrize("size", [0, 5, 12287, 12289, 10**15, -1])
def test_a_tensor_of_another_size_than_it_says_is_400(stack: Stack, size: int) -> None:
    header = {"inputs": [{**tensor("image", image()), "parameters": {"binary_data_size": size}}]}
    status, error = infer(stack, MODEL, header, image().tobytes())
    assert status == 400 and error
    assert works(stack)


def bytes_tensor(name: str, value: bytes) -> tuple[dict[str, Any], bytes]:
    data = len(value).to_bytes(4, "little") + value
    return {"name": name, "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}, data


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (b"words", "is not a MessagePack of a dict"),
        (b"", "is not a MessagePack of a dict"),
        (msgpack.packb([1]), "is not a dict with model_id and inputs"),
        (msgpack.packb({"operation": "load", "model_id": "counter"}), "is not a dict with model_id and inputs"),
    ],
)
def test_the_model_runners_own_operations_are_not_for_clients(stack: Stack, kwargs: bytes, reason: str) -> None:
    spec, data = bytes_tensor("kwargs", kwargs)
    status, error = infer(stack, f"/triton/v2/models/{RUNNER}", {"inputs": [spec]}, data)
    assert status == 400 and reason in error


def test_a_second_input_does_not_hide_an_operation(stack: Stack) -> None:
    first, harmless = bytes_tensor("kwargs", msgpack.packb({"model_id": "conscientious-seashell"}))
    second, hidden = bytes_tensor("kwargs", msgpack.packb({"operation": "status"}))
    status, error = infer(stack, f"/triton/v2/models/{RUNNER}", {"inputs": [first, second]}, harmless + hidden)
    assert status == 400 and "kwargs" in error


def test_wrong_inputs_get_a_clear_sentence(stack: Stack) -> None:
    odd = np.zeros((1, 2, 30, 32), np.float32)
    status, error = infer(stack, MODEL, {"inputs": [tensor("image", odd)]}, odd.tobytes())
    assert status == 400
    assert error.startswith("Input 'image' has the shape (1, 2, 30, 32): channel is 2, it must be 3. The model takes 'image'")
    status, error = infer(stack, MODEL, {"inputs": [tensor("image", odd[0])]}, odd.tobytes())
    assert status == 400 and error.startswith("unexpected shape for input 'image'")
    status, error = infer(stack, "/triton/v2/models/custom-crab", {"inputs": [tensor("image", odd)]}, odd.tobytes())
    assert status == 400 and error.startswith("Model 'custom-crab' contains Python code of its own")


@pytest.mark.parametrize("way", ["GET /config", "GET ", "GET /ready", "POST /infer"])
def test_a_model_that_there_is_not_is_404(stack: Stack, way: str) -> None:
    method, _, end = way.partition(" ")
    status, body = ask(stack, method, f"/triton/v2/models/no-such-model{end}", b'{"inputs": []}' if method == "POST" else b"")
    error = json.loads(body)["error"]
    assert status == 404 and error.startswith("No model 'no-such-model' on this server. It has: ")
    assert "Check the spelling" in error


@pytest.mark.parametrize("encoding", cases(["identity", "gzip"], core=["identity"]))
def test_large_bodies_pass_without_being_in_the_servers_memory(stack: Stack, encoding: str) -> None:
    """200 MB there, stopped before their end; 100 MB back, stopped after their beginning."""
    picture = np.tile(np.arange(5000, dtype=np.float32), (1, 10_000, 1))
    header = json.dumps(
        {"inputs": [tensor("image", picture)], "outputs": [{"name": "mask", "parameters": {"binary_data": True}}]}
    )
    body = header.encode() + picture.tobytes()
    before = stack.server_pss()
    sent = gzip.compress(body, 1) if encoding == "gzip" else body
    with socket.create_connection(("127.0.0.1", stack.port), 120) as connection:
        connection.sendall(
            f"POST /triton/v2/models/cellpose-like/infer HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: {encoding}\r\n"
            f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(sent)}\r\n\r\n".encode()
        )
        connection.sendall(sent[:-1000])
        assert stack.server_pss() - before < 40e6
        connection.sendall(sent[-1000:])
        reader = connection.makefile("rb")
        assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert stack.server_pss() - before < 40e6
        answer = http.client.parse_headers(reader)
        length = int(answer["Content-Length"])
        content = reader.read(length)
    pixels = np.frombuffer(content[int(answer["Inference-Header-Content-Length"]) :], np.uint16).reshape(picture.shape)
    np.testing.assert_array_equal(pixels, picture > picture.mean())


@pytest.mark.extended
def test_the_configuration_is_that_of_the_description_whether_loaded_or_not(packages: Path, tmp_path: Path) -> None:
    """And of a model that is not stored; then it is downloaded, loaded and, when its process has died, loaded again."""
    wanted = {
        "conscientious-seashell": ([[-1, 3, -1, -1]], [[-1, 1, -1, -1]]),
        "two-inputs": ([[-1, 1, -1, -1, -1]] * 2, [[-1, 1, -1, -1, -1]] * 2),
        "old-otter": ([[1, 1, 32, 48]], [[1, 1, 32, 48]]),
    }
    with Mirror(packages) as mirror, Stack(tmp_path / "home", BIOENGINE_OFFLINE="0", **mirror.environment) as stack:
        for model, (inputs, outputs) in wanted.items():
            path = f"/triton/v2/models/{model}"
            before = [ask(stack, "GET", path + end) for end in ("/config", "", "/ready")]
            assert [status for status, _ in before] == [200] * 3
            config, metadata = (json.loads(body) for _, body in before[:2])
            assert config["name"] == model and config["max_batch_size"] == 0
            assert [spec["dims"] for spec in config["input"]] == inputs
            assert [spec["dims"] for spec in config["output"]] == outputs
            assert [spec["shape"] for spec in metadata["inputs"]] == inputs
            assert not mirror.count(".onnx") and not mirror.count(".pt") and not (tmp_path / "home" / "models" / model).exists()

            arrays = example_input(packages, model)
            header = {"inputs": [tensor(spec["name"], array) for spec, array in zip(config["input"], arrays)]}
            data = b"".join(array.tobytes() for array in arrays)
            status, answer = infer(stack, path, header, data)
            assert status == 200 and answer["model_name"] == model, answer
            assert mirror.count(".onnx") == 1
            assert [ask(stack, "GET", path + end) for end in ("/config", "", "/ready")] == before
            mirror.asked.clear()

            stack.kill(model)
            assert infer(stack, path, header, data)[0] == 200
            assert [ask(stack, "GET", path + end) for end in ("/config", "", "/ready")] == before
        assert not mirror.count(".onnx")
