"""Bodies over plain HTTP that are too large, or whose clients vanish amid them: they cost the server nothing."""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import socket
from collections.abc import Iterator

import numpy as np
import pytest
import requests

from tests.stack.harness import ROOT, RUNNER, Stack, wait_for
from tests.tiers import cases

LIMIT = 30_000_000
EXECUTE = "/public/services/triton-client/execute"


def header(name: str, size: int) -> bytes:
    """Of an inference with an image of `size` pixels."""
    parameters = {"binary_data_size": 4 * size}
    tensor = {"name": name, "shape": [1, 1, size], "datatype": "FP32", "parameters": parameters}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()


def runner_header(size: int) -> bytes:
    """Header of a request to the model runner with `size` bytes of MessagePack."""
    tensor = {"name": "kwargs", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size + 4}}
    return json.dumps({"inputs": [tensor]}).encode()


LARGE = 10_000_000  # pixels, 40 MB
ROUTES = [
    (EXECUTE, b"", "application/msgpack"),
    ("/triton/v2/models/cellpose-like/infer", header("image", LARGE), "application/octet-stream"),
    (f"/triton/v2/models/{RUNNER}/infer", runner_header(4 * LARGE), "application/octet-stream"),
]
ALLOWED = 6_000_000  # pixels, 24 MB
BEGUN = (4 * ALLOWED - 4).to_bytes(4, "little")  # of a tensor; that of the model runner begins with the length of its element
ALLOWED_ROUTES = [
    (EXECUTE, b"", "application/msgpack"),
    ("/triton/v2/models/cellpose-like/infer", header("image", ALLOWED), "application/octet-stream"),
    (f"/triton/v2/models/{RUNNER}/infer", runner_header(4 * ALLOWED - 4), "application/octet-stream"),
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One place for each model, requests of 30 MB, and clients may be silent for 5 s."""
    home = tmp_path_factory.mktemp("strict") / "home"
    shutil.copytree(ROOT / "tests" / "triton_models", home / "triton-models")
    with Stack(
        home, BIOENGINE_MODEL_CONCURRENCY="1", BIOENGINE_MAX_REQUEST_SIZE=str(LIMIT), BIOENGINE_CLIENT_TIMEOUT="5"
    ) as running:
        yield running


def works(stack: Stack) -> bool:
    """The model has a place for a request, and answers it."""
    image, start = np.arange(16, dtype=np.float32), header("image", 16)
    answer = requests.post(
        f"{stack.url}/triton/v2/models/cellpose-like/infer",
        data=start + image.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(start))},
        timeout=60,
    )
    return answer.status_code == 200


def begun(stack: Stack, path: str, start: bytes, kind: str, length: int | None, **headers: str) -> http.client.HTTPConnection:
    """A request whose body is still to be sent."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    connection.putrequest("POST", path)
    size = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
    for name, value in {"Content-Type": kind, "Inference-Header-Content-Length": str(len(start)), **size, **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection


def send(connection: http.client.HTTPConnection, data: bytes) -> None:
    """All of it in chunks, as far as the server takes it: it may have answered already."""
    try:
        for begin in range(0, len(data), 1 << 16):
            chunk = data[begin : begin + (1 << 16)]
            connection.send(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        connection.send(b"0\r\n\r\n")
    except OSError:
        pass


def too_large(connection: http.client.HTTPConnection) -> None:
    answer = connection.getresponse()
    error = json.loads(answer.read())["error"]
    assert answer.status == 413, error
    assert "takes at most 30 MB" in error and "BIOENGINE_MAX_REQUEST_SIZE" in error
    connection.close()


@pytest.mark.parametrize(("path", "start", "kind"), ROUTES)
def test_a_body_that_is_announced_as_too_large_is_413_before_it_is_sent(
    strict: Stack, path: str, start: bytes, kind: str
) -> None:
    too_large(begun(strict, path, start, kind, LIMIT + 1))
    assert works(strict)


@pytest.mark.parametrize("encoding", cases(["identity", "gzip"], core=["gzip"]))
@pytest.mark.parametrize(("path", "start", "kind"), ROUTES)
def test_a_body_that_turns_out_to_be_too_large_is_413(strict: Stack, path: str, start: bytes, kind: str, encoding: str) -> None:
    before = strict.server_pss()
    body = start + bytes(LIMIT - len(start) + 1)
    connection = begun(strict, path, start, kind, None, **{"Content-Encoding": encoding})
    send(connection, gzip.compress(body, 1) if encoding == "gzip" else body)
    too_large(connection)
    assert works(strict)
    wait_for(lambda: strict.server_pss() - before < 1.5 * LIMIT, 5, "memory back")


@pytest.mark.parametrize(("path", "start", "kind"), cases(ALLOWED_ROUTES, core=ALLOWED_ROUTES[:1]))
def test_clients_that_hang_up_amid_their_upload_cost_nothing(strict: Stack, path: str, start: bytes, kind: str) -> None:
    before = strict.server_pss()
    for _ in range(20):
        connection = begun(strict, path, start, kind, len(start) + 4 * ALLOWED)
        connection.send(start + BEGUN + bytes(5_000_000))
        connection.close()
    assert works(strict)
    wait_for(lambda: strict.server_pss() - before < 20e6, 30, "memory back")


@pytest.mark.parametrize(("path", "start", "kind"), cases(ALLOWED_ROUTES, core=ALLOWED_ROUTES[:1]))
def test_a_client_that_falls_silent_amid_its_upload_is_taken_for_gone(strict: Stack, path: str, start: bytes, kind: str) -> None:
    """Nobody tells the server; the model's only place comes back."""
    before = strict.server_pss()
    connections = [begun(strict, path, start, kind, len(start) + 4 * ALLOWED) for _ in range(3)]
    for connection in connections:
        connection.send(start + BEGUN + bytes(1000))
    assert works(strict)
    for connection in connections:
        answer = connection.getresponse()
        assert answer.status == 400 and "the client went away" in json.loads(answer.read())["error"]
        connection.close()
    wait_for(lambda: strict.server_pss() - before < 20e6, 30, "memory back")


def test_a_client_that_reads_nothing_of_its_answer_takes_no_place(strict: Stack) -> None:
    start = header("image", 6_000_000)
    body = start + np.arange(6_000_000, dtype=np.float32).tobytes()
    with socket.create_connection(("127.0.0.1", strict.port), 60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(
            f"POST /triton/v2/models/cellpose-like/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            f"Inference-Header-Content-Length: {len(start)}\r\n\r\n".encode()
        )
        connection.sendall(body)
        assert connection.recv(8) == b"HTTP/1.1"
        assert works(strict)
        wait_for(lambda: "without completing response" in strict.log, 30, "its end")
    assert works(strict)
