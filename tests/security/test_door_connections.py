"""Clients that begin requests without finishing them, and that open many connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from bioengine_server.http import protocol
from bioengine_server.http.connections import Connections, peer_of, raise_file_limit
from bioengine_server.http.security_headers import SAFE_HEADERS
from hypha_rpc.sync import connect_to_server
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from tests.security.connections import Fake, Raw, serving
from tests.stack.harness import RUNNER, Stack, example_input, get
from tests.tiers import cases

HEADER = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
DEADLINE = 0.5  # seconds, in this process
MAX_OF_PEER = 20


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers requests, and keeps websockets."""
    if scope["type"] == "http":
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        await PlainTextResponse("fine")(scope, receive, send)
    elif scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server in this process, with a short deadline and few connections of one peer."""
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT", DEADLINE)
    async with serving(app, MAX_OF_PEER) as found:
        yield found


@pytest.mark.parametrize(
    "begin", [b"G", HEADER, HEADER + b"X: " + b"x" * 10_000, b"\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Le"]
)
async def test_half_a_header_is_not_waited_for(port: int, begin: bytes) -> None:
    slow = await Raw.open(port)
    slow.writer.write(begin)
    started = time.monotonic()
    answer = await slow.is_ended()
    assert answer is not None and time.monotonic() - started < 4 * DEADLINE
    if begin.strip():
        assert answer.startswith(b"HTTP/1.1 408 ") and b"did not arrive within" in answer
        assert all(name + b": " + value in answer for name, value in SAFE_HEADERS)


async def test_nothing_is_not_waited_for_either(port: int) -> None:
    assert await (await Raw.open(port)).is_ended() == b""


async def test_a_byte_now_and_then_does_not_make_it_longer(port: int) -> None:
    slow = await Raw.open(port)

    async def trickle() -> None:
        for byte in HEADER * 10:
            slow.writer.write(bytes([byte]))
            await asyncio.sleep(DEADLINE / 10)

    trickling = asyncio.ensure_future(trickle())
    started = time.monotonic()
    assert await slow.is_ended() is not None and time.monotonic() - started < 4 * DEADLINE
    trickling.cancel()


async def test_the_next_request_of_a_connection_has_the_same_time(port: int) -> None:
    kept = await Raw.open(port)
    assert b"200 OK" in await kept.request(HEADER + b"\r\n")
    await asyncio.sleep(3 * DEADLINE)  # a connection may be kept for longer
    assert b"200 OK" in await kept.request(HEADER + b"\r\n")
    kept.writer.write(HEADER)
    started = time.monotonic()
    answer = await kept.is_ended()
    assert answer is not None and answer.startswith(b"HTTP/1.1 408 ") and time.monotonic() - started < 4 * DEADLINE


async def test_half_a_header_behind_a_whole_request_has_it_too(port: int) -> None:
    kept = await Raw.open(port)
    assert b"200 OK" in await kept.request(HEADER + b"\r\n" + HEADER)
    answer = await kept.is_ended()
    assert answer is not None and answer.startswith(b"HTTP/1.1 408 ")


async def test_a_body_and_a_websocket_may_take_longer(port: int) -> None:
    sending = await Raw.open(port)
    sending.writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
    async with connect(f"ws://127.0.0.1:{port}/") as websocket:
        await asyncio.sleep(3 * DEADLINE)
        assert b"200 OK" in await sending.request(b"cd")
        await (await websocket.ping())


async def test_what_is_no_request_gets_an_answer_that_names_no_version(port: int) -> None:
    wrong = await Raw.open(port)
    wrong.writer.write(b"\x16\x03\x01 nothing\r\n\r\n")
    answer = await wrong.is_ended()
    assert answer is not None and answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert all(name + b": " + value in answer for name, value in SAFE_HEADERS)
    assert b"uvicorn" not in answer.lower() and b"\r\nserver:" not in answer.lower()


async def test_a_host_that_is_missing_or_doubled_is_no_request(port: int) -> None:
    for head in (b"GET / HTTP/1.1\r\n", HEADER + b"Host: localhost\r\n"):
        wrong = await Raw.open(port)
        wrong.writer.write(head + b"\r\n")
        assert (await wrong.is_ended() or b"").startswith(b"HTTP/1.1 400 ")


async def test_one_peer_s_oldest_half_open_connections_make_room(port: int) -> None:
    kept = await Raw.open(port)
    assert b"200 OK" in await kept.request(HEADER + b"\r\n")
    slow = [await Raw.open(port) for _ in range(MAX_OF_PEER)]
    # One too many, since one is kept: the oldest of those without a header has gone, and none else.
    assert await slow[0].is_ended(0.2) == b"" and await slow[1].is_ended(0.1) is None
    new = await Raw.open(port)
    assert b"200 OK" in await new.request(HEADER + b"\r\n") and b"200 OK" in await kept.request(HEADER + b"\r\n")


async def test_kept_connections_make_room_before_any_is_refused(port: int) -> None:
    kept = [await Raw.open(port) for _ in range(MAX_OF_PEER)]
    for each in kept:
        assert b"200 OK" in await each.request(HEADER + b"\r\n")
    new = await Raw.open(port)
    assert b"200 OK" in await new.request(HEADER + b"\r\n")
    assert await kept[0].is_ended(0.2) == b"" and await kept[1].is_ended(0.1) is None


async def test_websockets_of_one_peer_do_not_shut_out_another(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    async with contextlib.AsyncExitStack() as open_sockets:
        sockets = [await open_sockets.enter_async_context(connect(url)) for _ in range(MAX_OF_PEER)]
        refused = await Raw.open(port)
        assert await refused.is_ended(1) == b""
        other = await Raw.open(port, source="127.0.0.2")
        assert b"200 OK" in await other.request(HEADER + b"\r\n")
        for websocket in sockets:
            await (await websocket.ping())
        await sockets[0].close()
        await asyncio.sleep(0.1)
        again = await Raw.open(port)
        assert b"200 OK" in await again.request(HEADER + b"\r\n")


def test_all_together_are_bounded_and_the_largest_peer_makes_room() -> None:
    connections = Connections(most_of_peer=10, most=12)
    many = [Fake() for _ in range(9)]
    few = [Fake() for _ in range(3)]
    assert all(connections.open(fake, "10.0.0.1") for fake in many) and all(connections.open(fake, "10.0.0.2") for fake in few)
    assert connections.open(Fake(), "10.0.0.3") and len(connections) == 12
    assert [fake.is_aborted for fake in many] == [True] + [False] * 8 and not any(fake.is_aborted for fake in few)
    for fake in many:
        connections.mark(fake, "busy")
    assert not connections.open(Fake(), "10.0.0.4")
    connections.close(many[1])
    connections.close(many[1])
    assert connections.open(Fake(), "10.0.0.4") and len(connections) == 12


def test_nothing_is_kept_of_connections_that_have_ended() -> None:
    connections = Connections(4, 8)
    for _ in range(100):
        fake = Fake()
        assert connections.open(fake, "10.0.0.1")
        connections.close(fake)
        connections.mark(fake, "idle")
    assert len(connections) == 0 and connections._peers == {}


@pytest.mark.parametrize(
    ("addresses", "are_one"),
    [
        (("10.0.0.1", "10.0.0.2"), False),
        (("10.0.0.1", "::ffff:10.0.0.1"), True),
        (("2001:db8::1", "2001:db8::ffff:1"), True),
        (("2001:db8::1", "2001:db8:0:1::1"), False),
        (("fe80::1%eth0", "fe80::2%eth0"), True),
        (("::1", "127.0.0.1"), False),
    ],
)
def test_whose_addresses_are_one_peer_s(addresses: tuple[str, str], are_one: bool) -> None:
    assert (peer_of(addresses[0]) == peer_of(addresses[1])) is are_one


MANY = 1100
HANDSHAKE = HEADER.replace(b"/ ", b"/ws%s ", 1) + (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture(scope="module")
def many_files() -> Iterator[None]:
    """Enough files for the attacker, which is this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_file_limit()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * MANY:
        pytest.fail("the attacker itself may not open enough files: raise `ulimit -Hn`")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def assert_serves(stack: Stack, packages: Path) -> None:
    """Its health, and a client that has just come."""
    for path in ("/health/liveness", "/health/readiness"):
        assert get(stack.url + path)[0] == 200, path
    with connect_to_server({"server_url": stack.url, "method_timeout": 60}) as server:
        request = {"model_id": "conscientious-seashell", "inputs": example_input(packages, "conscientious-seashell")}
        answer = server.get_service("triton-client").execute(inputs=[request], model_name=RUNNER, serialization="imjoy")
    assert answer["result"]["success"], answer


def test_the_server_may_open_all_the_files_that_the_system_allows(stack: Stack) -> None:
    assert stack.process is not None
    soft, hard = psutil.Process(stack.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft == min(hard, 65_536)


@pytest.mark.parametrize("source", cases(["127.0.0.1", "127.0.0.2"], core=["127.0.0.1"]), ids=["of the same peer", "of another"])
@pytest.mark.parametrize("begin", [HEADER, HEADER + b"\r\n", HANDSHAKE % b""], ids=["half a header", "kept", "silent websockets"])
@pytest.mark.usefixtures("many_files")
def test_many_connections_keep_nobody_out(stack: Stack, packages: Path, begin: bytes, source: str) -> None:
    attackers = []
    try:
        for _ in range(MANY):
            attackers.append(socket.create_connection(("127.0.0.1", stack.port), source_address=(source, 0)))
            attackers[-1].sendall(begin)
        assert_serves(stack, packages)
    finally:
        for attacker in attackers:
            attacker.close()


@pytest.mark.extended
def test_whoever_does_not_go_on_is_ended(stack: Stack) -> None:
    """A request, and a websocket of each generation that says nothing."""
    beginnings = {HEADER: b"HTTP/1.1 408 ", HANDSHAKE % b"": b"HTTP/1.1 101 ", HANDSHAKE % b"?client_id=silent": b"HTTP/1.1 101 "}
    with contextlib.ExitStack() as open_sockets:
        silent = {}
        for begin in beginnings:
            silent[begin] = open_sockets.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
            silent[begin].settimeout(2 * protocol.HEADER_TIMEOUT)
            silent[begin].sendall(begin)
        for begin, answer in beginnings.items():
            received = b""
            while piece := silent[begin].recv(1000):
                received += piece
            assert received.startswith(answer), received
