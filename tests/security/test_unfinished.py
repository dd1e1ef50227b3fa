"""Requests and handshakes that clients never finish, and those that cost the server much: each has a time limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bioengine_server import log_once
from bioengine_server.access.errors import TooManyHandshakes
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.foreign import hypha as border
from bioengine_server.gateway import route
from bioengine_server.gateway.route import LegacyGateway
from bioengine_server.http import protocol, stall_timeout
from bioengine_server.http.connections import Connections
from bioengine_server.http.security_headers import SAFE_HEADERS
from bioengine_server.http.stall_timeout import StallTimeout
from bioengine_server.hypha.application import create_hypha
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.library import LibraryChanged
from bioengine_server.log_once import Once, OnceFilter
from bioengine_server.settings import Settings
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect

from tests.security.connections import Fake, Raw, serving
from tests.stack.harness import free_port

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: localhost\r\n"
HANDSHAKE = GET + (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
MAX_OF_PEER = 12
SHORT = 0.5  # seconds


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads bodies at /read only; keeps websockets, those at /silent without an answer."""
    if scope["type"] == "http":
        size, more = 0, scope["path"] == "/read"
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await PlainTextResponse(f"{size:04}")(scope, receive, send)
    elif scope["type"] == "websocket":
        if scope["path"] != "/silent":
            await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of a server in this process, with short deadlines and few connections of one peer."""
    for name in ("HANDSHAKE_TIMEOUT", "LINGER", "FLUSH_TIMEOUT"):
        monkeypatch.setattr(protocol, name, SHORT)
    async with serving(app, MAX_OF_PEER) as found:
        yield found


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"".join(b"X-%d: 1\r\n" % number for number in range(200)),
        b"X: " + b"a" * 20_000 + b"\r\n",
    ],
    ids=["length", "chunked", "many headers", "long header"],
)
async def test_a_handshake_that_cannot_be_read_is_refused(port: int, header: bytes) -> None:
    raw = await Raw.open(port)
    raw.writer.write(HANDSHAKE % b"/ws" + header + b"\r\n")
    answer = await raw.is_ended(SHORT / 2)
    assert answer is not None and answer.startswith(b"HTTP/1.1 400 ")
    assert all(name + b": " + value in answer for name, value in SAFE_HEADERS)


async def test_a_handshake_that_is_never_answered_ends(port: int) -> None:
    raw = await Raw.open(port)
    raw.writer.write(HANDSHAKE % b"/silent" + b"\r\n")
    begun = time.monotonic()
    assert await raw.is_ended() == b"" and SHORT / 2 < time.monotonic() - begun < 4 * SHORT


async def test_a_websocket_whose_handshake_is_over_stays(port: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}/ws") as websocket:
        await asyncio.sleep(2 * SHORT)
        await (await websocket.ping())


@pytest.mark.parametrize("more", [b"", b"x"])
async def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for(port: int, more: bytes) -> None:
    raw = await Raw.open(port)
    assert b"200 OK" in await raw.request(GET % b"/" + b"Content-Length: 1000\r\n\r\n")

    async def trickle() -> None:
        while more:
            raw.writer.write(more)
            await asyncio.sleep(SHORT / 10)

    trickling = asyncio.ensure_future(trickle())
    begun = time.monotonic()
    assert await raw.is_ended() is not None and time.monotonic() - begun < 4 * SHORT
    trickling.cancel()


async def test_a_body_that_nobody_reads_may_come_soon_after_the_answer(port: int) -> None:
    raw = await Raw.open(port)
    assert b"200 OK" in await raw.request(GET % b"/" + b"Content-Length: 5\r\n\r\nab")
    raw.writer.write(b"cde")
    await asyncio.sleep(2 * SHORT)
    assert b"0000" in await raw.request(GET % b"/" + b"\r\n")


@pytest.mark.parametrize("size", [1, 40_000, 100_000])
async def test_chunks_and_requests_behind_one_another_arrive_in_order(port: int, size: int) -> None:
    """More than is parsed at once, of both ways to send a body."""
    raw = await Raw.open(port)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * size + b"0\r\n\r\n"
    plain = b"Content-Length: %d\r\n\r\n" % size + bytes(size)
    raw.writer.write(POST + chunked + POST + plain + POST + chunked + GET % b"/" + b"Connection: close\r\n\r\n")
    answer = await raw.is_ended(60)
    assert (
        answer is not None
        and [part[-len(f"{size:04}") :] for part in answer.split(b"HTTP/1.1 200 OK")[1:4]] == [f"{size:04}".encode()] * 3
    )
    assert answer.endswith(b"0000")


async def test_others_are_served_while_a_body_comes_in_tiny_chunks(port: int) -> None:
    slow, other = await Raw.open(port), await Raw.open(port)
    slow.writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200_000)
    await asyncio.sleep(0.1)
    for _ in range(5):
        begun = time.monotonic()
        assert b"200 OK" in await other.request(GET % b"/" + b"\r\n")
        assert time.monotonic() - begun < 0.8
    slow.writer.close()


@pytest.mark.parametrize("begin", [POST + b"Content-Length: 4000\r\n\r\nx", HANDSHAKE % b"/ws" + b"\r\n"], ids=["upload", "ws"])
async def test_health_is_answered_beside_uploads_and_websockets_of_the_same_peer(port: int, begin: bytes) -> None:
    """Those that are under way are kept, and no new ones are taken."""
    held = [await Raw.open(port) for _ in range(MAX_OF_PEER)]
    for each in held:
        each.writer.write(begin)
    await asyncio.sleep(0.1)
    spare = await Raw.open(port)
    assert b"200 OK" in await spare.request(GET % b"/" + b"\r\n")
    another = await Raw.open(port)
    another.writer.write(begin)
    assert await another.is_ended(1) == b""
    assert b"200 OK" in await (await Raw.open(port)).request(GET % b"/" + b"\r\n")
    assert not any(each.reader.at_eof() for each in held)


@pytest.mark.parametrize("state", ["uploading", "unauthenticated"])
def test_what_has_not_moved_for_a_while_makes_room(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    connections = Connections(most_of_peer=2, most=100)
    stuck, moving, new = Fake(), Fake(), Fake()
    for fake in (stuck, moving):
        assert connections.open(fake, "10.0.0.1") and connections.mark(fake, state)  # type: ignore[arg-type]
    now = 106.0
    connections.mark(moving, state)  # type: ignore[arg-type]
    assert connections.open(new, "10.0.0.1") and connections.mark(new, "uploading")
    assert (stuck.is_aborted, moving.is_aborted) == (True, False)


async def test_a_body_has_a_least_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no progress; a slow client that sends on is waited for."""
    monkeypatch.setattr(stall_timeout, "_MIN_RATE", 1000)
    took: dict[int, tuple[float, bool]] = {}

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        begun, message, left = time.monotonic(), await receive(), 40
        while message["type"] == "http.request" and left:
            message, left = await receive(), left - 1
        took[scope["size"]] = (time.monotonic() - begun, not left)

    async def send(message: Message) -> None: ...

    async def measure(size: int) -> None:
        async def receive() -> Message:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": bytes(size), "more_body": True}

        await StallTimeout(reading, 0.3)({"type": "http", "size": size}, receive, send)

    await asyncio.gather(measure(1), measure(100))
    assert took[1][0] < 0.6 and not took[1][1] and took[100][1]


def test_a_line_is_written_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = Once()
    assert [lines.allows("a"), lines.allows("a"), lines.allows("b")] == [True, False, True]
    assert sum(lines.allows(f"line {number}") for number in range(1000)) == log_once._MAX - 2
    now = log_once._WHILE + 1
    assert lines.allows("a")


async def test_what_strangers_have_uvicorn_log_is_written_once(port: int, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("uvicorn.error")
    assert sum(isinstance(each, OnceFilter) for each in logger.filters) == 1
    logger.filters[:] = [OnceFilter()]
    with caplog.at_level(logging.INFO, logger="uvicorn.error"):
        for _ in range(5):
            for wrong in (b"nothing\r\n\r\n", GET % b"/" + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"):
                raw = await Raw.open(port)
                raw.writer.write(wrong)
                await raw.reader.read(100)
                raw.writer.close()
    assert sorted(record.message for record in caplog.records if record.levelno == logging.WARNING) == [
        "Invalid HTTP request received.",
        "Unsupported upgrade request.",
    ]


async def test_handshakes_of_legacy_clients_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "_WAIT", 0.3)
    gateway = LegacyGateway(FastAPI(), lambda: pytest.fail("no store"), None)  # type: ignore[arg-type]
    now = most = 0

    async def handshake(seconds: float) -> None:
        nonlocal now, most
        async with gateway._turn():
            now += 1
            most = max(most, now)
            await asyncio.sleep(seconds)
            now -= 1

    assert await asyncio.gather(*(handshake(0.01) for _ in range(300))) == [None] * 300
    assert most == 50
    long = [asyncio.ensure_future(handshake(1)) for _ in range(50)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyHandshakes, match="too many clients connect at once"):
        await handshake(0)
    await asyncio.gather(*long)
    await handshake(0)


def test_hypha_s_limit_by_a_header_of_anybody_is_gone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, run_dir=tmp_path, port=free_port())
    app = create_hypha(settings, Access(settings, TokenRegistry(tmp_path)), new_secret())
    names = {getattr(item.cls, "__name__", "") for item in app.user_middleware}
    assert names and not any("RateLimit" in name for name in names)
    with pytest.raises(LibraryChanged, match="HTTPRateLimitMiddleware"):
        border.drop_rate_limit(app)
