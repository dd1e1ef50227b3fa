"""What breaks the protocol: a clear error to that client alone, and memory back to where it was."""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from websockets.exceptions import ConnectionClosed

from tests.stack.harness import Stack, example_input, wait_for
from tests.stack.raw import GENERATIONS, RawClient
from tests.tiers import cases

LIMIT = 60_000_000
KEPT = 256 * 2**20  # bytes, which the server may keep of what images took
GIVEN_BACK = 5  # seconds after a refusal
ONE_OF_THEM = cases(GENERATIONS, core=["imjoy-rpc"])
MAIN = {"type": "method", "from": "raw", "to": "workspace-manager", "method": "services.default.echo"}


@pytest.fixture(scope="module")
def limited(filled_home: Path, tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Stack]:
    """A stack that takes requests of 60 MB."""
    from tests.stack.harness import fill_home

    home = tmp_path_factory.mktemp("limited") / "home"
    fill_home(home, packages)
    with Stack(home, BIOENGINE_MAX_REQUEST_SIZE=str(LIMIT)) as running:
        yield running


@pytest.fixture(autouse=True)
def others_are_undisturbed(limited: Stack, packages: Path) -> Iterator[None]:
    """Before and after, another client, connected all the time, gets its result."""
    inputs, wanted = (
        example_input(packages, "conscientious-seashell"),
        np.load(packages / "conscientious-seashell" / "test_output.npy"),
    )
    with limited.client() as other:
        for step in ("before", "after"):
            result = other.run("conscientious-seashell", inputs)
            assert result.get("success"), result
            np.testing.assert_allclose(result["outputs"][0], wanted, atol=1e-3)
            if step == "before":
                yield


def memory(stack: Stack) -> float:
    assert stack.process is not None
    return float(psutil.Process(stack.process.pid).memory_info().rss)


def array(value: bytes = b"1234", shape: Any = (4,), dtype: Any = "uint8", kind: str = "ndarray") -> dict[str, Any]:
    return {"_rtype": kind, "_rvalue": value, "_rshape": shape, "_rdtype": dtype}


def packed(value: Any) -> bytes:
    import msgpack

    data: bytes = msgpack.packb(value)
    return data


@pytest.mark.parametrize("generation", ONE_OF_THEM)
@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1\xc1\xc1",
        b"these are words, not MessagePack",
        b"",
        b"\x81",
        packed([1, 2, 3]),
        packed({"type": "method"}),
        packed({"type": 5, "to": "workspace-manager"}),
        b"\x91" * 10_000 + b"\xc0",
        packed(MAIN) + b"\x81\xa4args" + b"\x91" * 10_000 + b"\xc0",
        packed(MAIN) + packed({}) + packed({}),
        b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 100,
        packed(MAIN) + b"\xdd\xff\xff\xff\xff",
    ],
    ids=["reserved", "words", "empty", "cut", "list", "no-target", "type", "deep-main", "deep-extra", "three", "huge", "huge-2"],
)
def test_a_frame_that_is_no_message_ends_its_connection_with_the_reason(limited: Stack, generation: str, frame: bytes) -> None:
    with RawClient(limited, generation) as client:
        client.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.socket.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003 and closed.value.rcvd.reason.startswith("The frame "), closed.value.rcvd


@pytest.mark.parametrize("generation", ONE_OF_THEM)
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (array(shape=[5]), "cannot have 4 bytes"),
        (array(shape=[-1]), "is not a list of at most 32 sizes"),
        (array(shape=[-2, -2]), "is not a list of at most 32 sizes"),
        (array(shape=[2**62, 2**62]), "cannot have 4 bytes"),
        (array(shape=[1] * 40), "is not a list of at most 32 sizes"),
        (array(shape=["4"]), "is not a list of at most 32 sizes"),
        (array(shape=None), "needs _rvalue (bytes) and _rshape (a list)"),
        (array(value="text"), "needs _rvalue (bytes) and _rshape (a list)"),  # type: ignore[arg-type]
        (array(dtype="O"), "the dtype 'O' is not one of bool"),
        (array(dtype="float33"), "the dtype 'float33' is not one of bool"),
        (array(dtype="V4"), "the dtype 'V4' is not one of bool"),
        (array(dtype="i4,i4"), "the dtype 'i4,i4' is not one of bool"),
        (array(dtype=5), "the dtype '5' is not one of bool"),
        (array(dtype="O", kind="typedarray"), "the dtype 'O' is not one of bool"),
        (array(dtype="float64", kind="typedarray"), "cannot have 4 bytes"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_an_array_that_is_not_what_it_says_is_refused(limited: Stack, generation: str, given: Any, problem: str) -> None:
    with RawClient(limited, generation) as client:
        with pytest.raises(RuntimeError) as refused:
            client.execute(given)
        assert problem in str(refused.value) and "Traceback" not in str(refused.value)
        assert client.execute(array(bytes(1 * 3 * 16 * 16), [1, 3, 16, 16]))["success"], "the same connection goes on"


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("depth", [500, 900])
def test_deep_nesting_that_is_still_messagepack_is_refused(limited: Stack, generation: str, depth: int) -> None:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    with RawClient(limited, generation) as client:
        try:
            assert client.execute(nested)["success"] is False
        except RuntimeError as refused:
            assert "Traceback" not in str(refused)
        assert client.execute(array(bytes(1 * 3 * 16 * 16), [1, 3, 16, 16]))["success"]


@pytest.mark.parametrize("generation", ONE_OF_THEM)
@pytest.mark.parametrize(
    "name",
    [
        "{service}._router", "{service}.__class__", "{service}.execute.__globals__", "{service}.missing", "services", "",
        "services.built-in.message_cache.__class__", "__init__", "rpc", "services.default._session", "...",
    ],
)  # fmt: skip
def test_a_method_that_is_not_public_is_refused(limited: Stack, generation: str, name: str) -> None:
    with RawClient(limited, generation) as client:
        with pytest.raises(RuntimeError) as refused:
            client.call(name.format(service=client.service), timeout=10)
        assert "Traceback" not in str(refused.value) and ".py" not in str(refused.value)
        assert client.execute(array(bytes(1 * 3 * 16 * 16), [1, 3, 16, 16]))["success"]


@pytest.mark.parametrize("generation", ONE_OF_THEM)
def test_unfinished_messages_of_clients_that_vanish_are_forgotten(limited: Stack, generation: str) -> None:
    """Together larger than what the server may have kept of earlier messages."""
    before = memory(limited)
    clients = [RawClient(limited, generation, f"vanishing-{number}") for number in range(7)]
    for number, client in enumerate(clients):
        client.call("services.built-in.message_cache.create", f"upload-{number}")
        for _ in range(100):
            client.send(client.frame("services.built-in.message_cache.append", f"upload-{number}", bytes(500_000)))
        client.call("services.built-in.message_cache.append", f"upload-{number}", b"")
    assert memory(limited) - before > len(clients) * 50e6 - KEPT
    for client in clients:
        client.vanish()  # its socket is closed by the test alone
    wait_for(lambda: memory(limited) - before < 40e6, 20, "memory back")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_message_larger_than_the_limit_is_refused(limited: Stack, generation: str) -> None:
    with RawClient(limited, generation) as client:
        client.call("services.built-in.message_cache.create", "large")
        with pytest.raises(RuntimeError, match="BIOENGINE_MAX_REQUEST_SIZE"):
            for _ in range(200):
                client.call("services.built-in.message_cache.append", "large", bytes(500_000))
        with pytest.raises(RuntimeError, match="There is no message large of this client"):
            client.call("services.built-in.message_cache.process", "large")
        assert client.execute(array(bytes(1 * 3 * 16 * 16), [1, 3, 16, 16]))["success"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_message_whose_chunks_are_no_message_is_refused(limited: Stack, generation: str) -> None:
    with RawClient(limited, generation) as client:
        for key, content in {"words": b"these are words", "deep": b"\x91" * 10_000, "cut": packed(MAIN)[:-3]}.items():
            client.call("services.built-in.message_cache.create", key)
            client.call("services.built-in.message_cache.append", key, content)
            with pytest.raises(RuntimeError) as refused:
                client.call("services.built-in.message_cache.process", key)
            assert "Traceback" not in str(refused.value)
        assert client.execute(array(bytes(1 * 3 * 16 * 16), [1, 3, 16, 16]))["success"]


def test_nobody_touches_the_message_of_another(limited: Stack) -> None:
    with RawClient(limited, "hypha-rpc", "owner") as owner, RawClient(limited, "hypha-rpc", "other") as other:
        owner.call("services.built-in.message_cache.create", "mine")
        calls: list[Any] = [("append", "mine", b"x"), ("set", "mine", 0, b"x"), ("process", "mine"), ("remove", "mine")]
        for method, *args in calls:
            with pytest.raises(RuntimeError, match="There is no message mine of this client"):
                other.call(f"services.built-in.message_cache.{method}", *args)
        with pytest.raises(RuntimeError, match="needs a key of its own"):
            other.call("services.built-in.message_cache.create", "mine", False, True)
        owner.call("services.built-in.message_cache.remove", "mine")


ROUTES = [
    ("/public/services/triton-client/execute", {"Content-Type": "application/msgpack"}),
    ("/public/services/triton-client/execute", {"Content-Type": "application/json"}),
    ("/triton/v2/models/conscientious-seashell/infer", {"Inference-Header-Content-Length": "50"}),
    ("/triton/v2/models/conscientious-seashell/infer", {}),
    ("/triton/v2/models/bioengine-model-runner/infer", {"Inference-Header-Content-Length": "50"}),
    ("/public/services/hypha-login/start", {"Content-Type": "application/msgpack"}),  # closed
]
CORE_ROUTES = [ROUTES[0], ROUTES[2]]


@functools.cache
def bomb(encoding: str) -> bytes:
    """Half a megabyte that would be 500 MB."""
    return gzip.compress(bytes(500_000_000), 9) if encoding == "gzip" else zlib.compress(bytes(500_000_000), 9)


@pytest.mark.parametrize(("route", "headers"), cases(ROUTES, core=CORE_ROUTES))
@pytest.mark.parametrize("encoding", cases(["gzip", "deflate"], core=["gzip"]))
def test_a_bomb_is_refused_where_anything_is_unzipped(limited: Stack, route: str, headers: dict[str, str], encoding: str) -> None:
    data = bomb(encoding)
    before = memory(limited)
    answer = requests.post(limited.url + route, data=data, headers={**headers, "Content-Encoding": encoding}, timeout=60)
    assert 400 <= answer.status_code < 500, answer.text
    if answer.status_code == 413:
        assert "60 MB" in answer.json()["error"] and "BIOENGINE_MAX_REQUEST_SIZE" in answer.json()["error"]
    wait_for(lambda: memory(limited) - before < 1.5 * LIMIT, GIVEN_BACK, "memory back")


@pytest.mark.parametrize(("route", "headers"), cases(ROUTES, core=CORE_ROUTES))
def test_a_body_larger_than_the_limit_is_413(limited: Stack, route: str, headers: dict[str, str]) -> None:
    try:
        answer = requests.post(limited.url + route, data=bytes(LIMIT + 5_000_000), headers=headers, timeout=60)
    except requests.ConnectionError:
        return  # it was answered, and closed, while we were still sending
    assert answer.status_code in (400, 404, 413), answer.text
    if answer.status_code == 413:
        assert "BIOENGINE_MAX_REQUEST_SIZE" in answer.json()["error"]


def test_a_refusal_arrives_also_where_much_was_sent(limited: Stack) -> None:
    """The header alone is reason enough; the rest is read before the answer, which would be lost otherwise."""
    header = b'{"inputs": [{"parameters": {"shared_memory_region": "x"}}]}'
    answer = requests.post(
        f"{limited.url}/triton/v2/models/conscientious-seashell/infer",
        data=header + bytes(40_000_000),
        headers={"Inference-Header-Content-Length": str(len(header))},
        timeout=60,
    )
    assert answer.status_code == 403 and "shared_memory_region" in answer.json()["error"]


def test_memory_comes_back_after_all_of_this(limited: Stack) -> None:
    before = memory(limited)
    for _ in range(20):
        requests.post(
            limited.url + ROUTES[0][0],
            data=gzip.compress(bytes(50_000_000), 1),
            headers={**ROUTES[0][1], "Content-Encoding": "gzip"},
        )
    wait_for(lambda: memory(limited) - before < 100e6, GIVEN_BACK, "memory back")
