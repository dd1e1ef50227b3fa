"""Who may run models, by which way, and how much at once; over every transport."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import requests
from bioengine_server.access.registry import TokenRegistry
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.stack.harness import RUNNER, Client, Stack, bioengine, fill_home, snail, wait_for
from tests.stack.raw import RawClient
from tests.tiers import cases

IMAGE = np.zeros((1, 3, 16, 16), np.float32)
NEEDED = "This server needs a token: ask its admin"
PROXIED = [
    {"X-Forwarded-For": "10.1.2.3"}, {"Forwarded": "for=10.1.2.3"}, {"x-forwarded-for": ""}, {"X-Real-IP": "10.1.2.3"},
    {"Via": "1.1 lab"}, {"CF-Connecting-IP": "10.1.2.3"},
]  # fmt: skip


def encoded(array: np.ndarray) -> dict[str, Any]:
    return {"_rtype": "ndarray", "_rvalue": array.tobytes(), "_rshape": array.shape, "_rdtype": str(array.dtype)}


def post(stack: Stack, array: np.ndarray, model: str = "conscientious-seashell", **headers: str) -> requests.Response:
    """`execute` over HTTP."""
    inputs = [{"model_id": model, "inputs": [encoded(array)]}]
    arguments = {"inputs": inputs, "model_name": RUNNER, "serialization": "imjoy"}
    url = f"{stack.url}/public/services/triton-client/execute"
    headers = {"Content-Type": "application/msgpack", **headers}
    return requests.post(url, data=msgpack.packb(arguments), headers=headers, timeout=120)


def infer(stack: Stack, array: np.ndarray, **headers: str) -> requests.Response:
    """The same by Triton's protocol."""
    given = {"name": "image", "shape": array.shape, "datatype": "FP32", "parameters": {"binary_data_size": array.nbytes}}
    header = json.dumps({"inputs": [given]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)), **headers}
    url = f"{stack.url}/triton/v2/models/conscientious-seashell/infer"
    return requests.post(url, data=header + array.tobytes(), headers=headers, timeout=120)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_on_loopback_everybody_may_run_models_by_default(stack: Stack) -> None:
    with stack.client() as client:
        assert client.run("conscientious-seashell", [IMAGE])["success"]
    assert post(stack, IMAGE).status_code == infer(stack, IMAGE).status_code == 200
    for generation in ("imjoy-rpc", "hypha-rpc"):
        with RawClient(stack, generation) as raw:
            assert raw.execute(encoded(IMAGE))["success"]


def test_up_says_who_may_run_models(stack: Stack, token_stack: Stack) -> None:
    assert "Access: open to programs on this machine; with a token through a proxy" in stack.log
    assert "Access: with a token (create one with `./bioengine token create NAME`)" in token_stack.log
    assert '"token": "..."' in token_stack.log and '"token"' not in stack.log


@pytest.mark.parametrize("headers", PROXIED, ids=str)
def test_through_a_proxy_a_token_is_needed(stack: Stack, headers: dict[str, str]) -> None:
    for answer in (
        post(stack, IMAGE, **headers),
        infer(stack, IMAGE, **headers),
        requests.get(f"{stack.url}/triton/v2/models/conscientious-seashell/config", headers=headers),
        requests.get(f"{stack.url}/public/services/triton-client/get_config?model_name=counter", headers=headers),
    ):
        assert answer.status_code == 401 and answer.json()["error"].startswith(NEEDED)
        assert f"came through a proxy, as its header {next(iter(headers)).title()} shows." in answer.json()["error"]
    for path in ("/health/liveness", "/health/readiness", "/public/services"):
        assert requests.get(stack.url + path, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", PROXIED, ids=str)
def test_connections_through_a_proxy_need_a_token(stack: Stack, headers: dict[str, str]) -> None:
    """hypha-rpc is told and closed; imjoy-rpc is told in answer to each call."""
    with connect(f"ws://127.0.0.1:{stack.port}/ws", additional_headers=headers) as connection:
        connection.send(json.dumps({"client_id": "raw"}))
        told = json.loads(connection.recv(10))
        assert told["type"] == "error" and told["message"].startswith(NEEDED)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
        assert closed.value.rcvd.reason.startswith(NEEDED)
    with pytest.raises(RuntimeError, match=NEEDED):
        RawClient(stack, "imjoy-rpc", headers=headers)


def test_a_token_lets_in_through_a_proxy(stack: Stack) -> None:
    token = bioengine("token", "create", "proxied", "--home", str(stack.home)).stdout.strip()
    headers = {**PROXIED[0], **bearer(token)}
    assert post(stack, IMAGE, **headers).status_code == infer(stack, IMAGE, **headers).status_code == 200
    for generation in ("imjoy-rpc", "hypha-rpc"):
        with RawClient(stack, generation, headers=PROXIED[0], token=token) as raw:
            assert raw.execute(encoded(IMAGE))["success"]
    bioengine("token", "revoke", "proxied", "--home", str(stack.home))
    answer = post(stack, IMAGE, **headers)
    assert answer.status_code == 401 and "The token 'proxied' has been revoked" in answer.json()["error"]


@pytest.mark.parametrize(
    "first",
    [
        '{"client_id": "raw"}', '{"client_id": "raw", "workspace": "public"}', '{"client_id": "raw", "token": ""}',
        '{"client_id": "raw", "token": null}', '{"client_id": "raw", "token": 5}', '{"client_id": "raw", "token": ["x"]}',
        '{"client_id": "raw", "reconnection_token": "x"}', '{"client_id": "raw", "token": "a.b.c"}', "[]", "words", "5", "null",
        b"\x81\xa9client_id\xa3raw",
    ],
    ids=str,
)  # fmt: skip
def test_no_first_message_gets_around_the_door(token_stack: Stack, first: str | bytes) -> None:
    for query in ("", "?client%5Fid=x&client%5Fid=", "?workspace=", "?token=", "?x=client_id"):
        with connect(f"ws://127.0.0.1:{token_stack.port}/ws{query}") as connection, pytest.raises(ConnectionClosed):
            connection.send(first)
            while True:
                told = connection.recv(10)
                assert "connection_info" not in str(told)


def test_no_address_gets_an_imjoy_rpc_client_around_the_door(token_stack: Stack) -> None:
    for query in ("client_id=raw", "client_id=raw&token=", "client_id=raw&token=x", "client_id=raw&workspace=public"):
        with pytest.raises(RuntimeError, match=r"needs a token|is not valid"):
            RawClient(token_stack, "imjoy-rpc", query=query)


@pytest.fixture(scope="module")
def limited(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An open stack with limits for clients without a token."""
    home = tmp_path_factory.mktemp("limited") / "home"
    fill_home(home, packages)
    limits: Any = {"BIOENGINE_ANONYMOUS_REQUESTS": "2", "BIOENGINE_ANONYMOUS_MAX_REQUEST_SIZE": "3000000"}
    with Stack(home, **limits) as running, running.client(running.token("warm-up")) as client:
        assert client.run("slow-snail", [snail(0)])["success"]
        yield running


class Occupied:
    """Two requests under way, a slow one and one behind it in the same process, for eight seconds or as long as the context."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(2)

    def __enter__(self) -> Occupied:
        self.results = []
        for seconds in (8, 0):
            self.results.append(self._pool.submit(self._client.run, "slow-snail", [snail(seconds)]))
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        assert all(result.result(120)["success"] for result in self.results), "those under way are undisturbed"
        self._pool.shutdown()


@pytest.mark.parametrize("who", cases(["anonymous", "token"], core=["token"]))
def test_one_request_more_than_the_limit_is_refused_at_once(limited: Stack, who: str) -> None:
    token = limited.token("two-at-once", "--requests", "2") if who == "token" else ""
    headers = bearer(token) if token else {}
    reason = (
        "The token 'two-at-once' has 2 requests in progress already" if token
        else "Clients without a token have, together, 2 requests in progress already"
    )  # fmt: skip
    with limited.client(token) as first, limited.client(token) as second:
        with Occupied(first):
            started = time.monotonic()
            with pytest.raises(Exception, match=reason):
                second.run("conscientious-seashell", [IMAGE])
            for answer in (post(limited, IMAGE, **headers), infer(limited, IMAGE, **headers)):
                assert answer.status_code == 429 and answer.headers["Retry-After"]
                assert answer.json()["error"].startswith(reason) and "Wait for one to finish" in answer.json()["error"]
            with RawClient(limited, "imjoy-rpc", token=token) as raw, pytest.raises(RuntimeError, match=reason):
                raw.execute(encoded(IMAGE))
            assert time.monotonic() - started < 3, "the slow ones still run"
            other = limited.client(limited.token(f"other-than-{who}"))
            assert other.run("conscientious-seashell", [IMAGE])["success"], "others have limits of their own"
            other.close()
        assert second.run("conscientious-seashell", [IMAGE])["success"], "and then there is room again"
        assert post(limited, IMAGE, **headers).status_code == infer(limited, IMAGE, **headers).status_code == 200
    assert limited.is_ready()


@pytest.mark.parametrize(
    "path",
    cases(
        ["/public/services/triton-client/execute", "/triton/v2/models/cellpose-like/infer", f"/triton/v2/models/{RUNNER}/infer"],
        core=["/public/services/triton-client/execute"],
    ),
)
def test_a_request_counts_while_its_body_comes(limited: Stack, path: str) -> None:
    """What is half sent is in the server's memory; questions about models count, too."""
    headers = bearer(limited.token(f"one-at-once-{path.count('/')}-{len(path)}", "--requests", "1"))
    config = f"{limited.url}/triton/v2/models/conscientious-seashell/config"
    service = f"{limited.url}/public/services/triton-client/get_config?model_name=conscientious-seashell"
    with socket.create_connection(("127.0.0.1", limited.port)) as half:
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Length: 1000000", "Content-Type: application/msgpack"]
        half.sendall("\r\n".join([*lines, f"Authorization: {headers['Authorization']}", "", "x"]).encode())
        time.sleep(1)
        answers = [
            post(limited, IMAGE, **headers), infer(limited, IMAGE, **headers),
            requests.get(config, headers=headers), requests.get(service, headers=headers),
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [429] * 4
        assert all("has 1 request in progress already" in answer.json()["error"] for answer in answers)
    wait_for(lambda: requests.get(config, headers=headers).status_code == 200, 10, "room again")
    assert requests.get(service, headers=headers).status_code == 200
    assert post(limited, IMAGE, **headers).status_code == infer(limited, IMAGE, **headers).status_code == 200, "each counts once"


@pytest.mark.parametrize("who", cases(["anonymous", "token"], core=["anonymous"]))
def test_an_input_larger_than_the_limit_is_refused(limited: Stack, who: str) -> None:
    token = limited.token("three-mb", "--max-size", "3MB") if who == "token" else ""
    headers = bearer(token) if token else {}
    reason = r"the token 'three-mb' allows at most 3 MB" if token else r"clients without a token may send at most 3 MB"
    large = np.zeros((1, 3, 640, 640), np.float32)  # 4.9 MB
    for answer in (post(limited, large, **headers), infer(limited, large, **headers)):
        assert answer.status_code == 413 and reason in answer.json()["error"], answer.text
    with limited.client(token) as client:
        with pytest.raises(Exception, match=f"more than 4 MB, but {reason}") as refused:
            client.run("conscientious-seashell", [large])
        assert "Traceback" not in str(refused.value) and ".py" not in str(refused.value)
        assert client.run("conscientious-seashell", [IMAGE])["success"], "the same connection goes on"
        # 3.1 MB: within what a message may have beside its inputs, so it is taken, looked at, and answered as data.
        result = client.run("conscientious-seashell", [np.zeros((1, 3, 512, 512), np.float32)])
        assert result["success"] is False and reason in result["error"], result
    with limited.client(limited.token(f"unlimited-by-{who}")) as client:
        assert client.run("conscientious-seashell", [large])["success"]


@pytest.mark.extended
def test_a_tokens_first_clients_may_all_come_at_once(stack: Stack) -> None:
    """Hypha makes the token's workspace when the first one comes."""
    tokens = [stack.token(f"new-{number}") for number in range(5)]
    for token in tokens:
        together = threading.Barrier(8)

        def come(number: int, token: str = token, together: threading.Barrier = together) -> bool:
            together.wait(20)
            with RawClient(stack, ("imjoy-rpc", "hypha-rpc")[number % 2], f"raw-{number}", token=token) as raw:
                return bool(raw.execute(encoded(IMAGE))["success"])

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(come, range(8))) == [True] * 8


def test_many_changes_of_tokens_disturb_nobody(limited: Stack) -> None:
    """Requests go on while tokens are made and revoked."""
    stop = threading.Event()

    tokens = TokenRegistry(limited.home)

    def change() -> None:
        while not stop.wait(0.02):
            tokens.create("busy", 1)
            tokens.revoke("busy")

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with limited.client(limited.token("steady")) as client:
            for _ in range(40):
                assert client.run("conscientious-seashell", [IMAGE])["success"]
    finally:
        stop.set()
        changing.join()
