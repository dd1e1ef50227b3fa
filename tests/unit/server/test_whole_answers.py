"""A client that has sent a whole request gets the whole answer, whatever else happens on its connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from bioengine_server.http.connections import Connections
from starlette.types import Receive, Scope, Send

from tests.security.connections import Fake, Raw, serving

LARGE = 20_000_000
MOST = 16


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = b"x" * (LARGE if scope["path"] == "/large" else 4)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(app, MOST) as found:
        yield found


async def test_an_answer_that_is_still_being_read_is_not_cut_off_for_new_connections(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
    writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(0.3)
    for _ in range(MOST + 2):
        assert b"200 OK" in await (await Raw.open(port)).request(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(10):
        left = LARGE
        while left > 0 and (data := await reader.read(1 << 16)):
            left -= len(data)
    assert left <= 0
    writer.close()


def test_only_who_has_read_all_makes_room() -> None:
    connections = Connections(most_of_peer=2, most=100)
    reading, idle = Fake(), Fake()
    for fake in (reading, idle):
        assert connections.open(fake, "10.0.0.1") and connections.mark(fake, "idle")
    reading.unsent = 1
    assert connections.open(Fake(), "10.0.0.1")
    assert (reading.is_aborted, idle.is_aborted) == (False, True)


async def test_what_follows_a_last_request_is_ignored(port: int) -> None:
    """Some programs send an empty line after a body."""
    last = await Raw.open(port)
    last.writer.write(b"POST /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab")
    await asyncio.sleep(0.2)
    last.writer.write(b"\r\n")
    answer = await last.is_ended() or b""
    assert answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"\r\n\r\nxxxx")
