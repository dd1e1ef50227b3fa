"""Request bodies that are small when sent and large when decompressed, that come slowly, or that no route reads."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
import zlib
from collections.abc import Sequence

import pytest
from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.http import body as bodies
from bioengine_server.http.allowed_routes import AllowedRoutes
from bioengine_server.http.body import Rest, read
from bioengine_server.http.body_memory import BodyMemory
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import BodiesTooLarge
from bioengine_server.limits import SizeLimit
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from tests.unit.server.tables import table

MB = 1 << 20
ROOM = SizeLimit(1000 * MB)
GZIP, DEFLATE = Headers({"content-encoding": "gzip"}), Headers({"content-encoding": "deflate"})


def sending(parts: Sequence[bytes]) -> Receive:
    """Parts of a body, as the server would hand them on."""
    left = list(parts)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


async def read_all(headers: Headers, *parts: bytes, limit: SizeLimit = ROOM) -> bytes:
    with BodyMemory(4 * ROOM.bytes).share() as take:
        return bytes(await read(headers, sending(parts), limit, take))


def zipped(megabytes: int) -> bytes:
    """So much of nothing, which shrinks a thousandfold."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(stream.compress(bytes(MB)) for _ in range(megabytes)) + stream.flush()


@pytest.mark.parametrize("size", [0, 1, MB - 1, MB, MB + 1, 5 * MB])
@pytest.mark.parametrize("piece", [1000, 10 * MB])
async def test_a_zipped_body_is_what_was_zipped(size: int, piece: int) -> None:
    for content in (os.urandom(size), bytes(size)):
        for headers, data in ((GZIP, gzip.compress(content, 1)), (DEFLATE, zlib.compress(content, 1))):
            parts = [data[begin : begin + piece] for begin in range(0, len(data), piece)]
            assert await read_all(headers, *parts) == content


async def test_an_empty_image_of_a_usual_size_may_be_zipped() -> None:
    assert len(await read_all(GZIP, zipped(60))) == 60 * MB


async def test_a_bomb_is_refused_early_and_others_are_served_meanwhile() -> None:
    bomb = zipped(200)
    longest, last = 0.0, time.monotonic()

    async def others() -> None:
        nonlocal longest, last
        while True:
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            await asyncio.sleep(0)

    serving = asyncio.ensure_future(others())
    memory = BodyMemory(4 * ROOM.bytes)
    with memory.share() as take:
        with pytest.raises(BadBody, match="200 times when it is decompressed; send it without Content-Encoding"):
            await read(GZIP, sending([bomb]), ROOM, take)
        assert 60 * MB < memory.taken <= 66 * MB
    serving.cancel()
    assert longest < 0.2 and memory.taken == 0


async def test_what_is_larger_than_the_limit_is_too_large_zipped_or_not() -> None:
    for headers, parts in ((GZIP, [zipped(12)]), (Headers({}), [bytes(MB)] * 12)):
        with pytest.raises(TooLarge):
            await read_all(headers, *parts, limit=SizeLimit(10 * MB))


@pytest.mark.parametrize("parts", [[b"x"], [b"", os.urandom(64)], [bytes(1000)] * 3])
async def test_nothing_may_follow_the_end_of_what_was_zipped(parts: list[bytes]) -> None:
    for first in ([gzip.compress(b"\x80")], [gzip.compress(b"\x80") + b"more"]):
        with pytest.raises(BadBody, match="after the end"):
            await read_all(GZIP, *first, *parts)


async def test_a_zipped_body_that_was_cut_off_is_refused() -> None:
    data = gzip.compress(os.urandom(1000))
    for length in (1, 5, len(data) - 1):
        with pytest.raises(BadBody, match="it is not complete"):
            await read_all(GZIP, data[:length])


async def test_all_bodies_together_are_bounded_and_give_their_room_back() -> None:
    memory = BodyMemory(10 * MB)
    with memory.share() as first:
        await read(Headers({}), sending([bytes(MB)] * 8), ROOM, first)
        with memory.share() as second, pytest.raises(BodiesTooLarge, match="Try again in a few seconds") as refused:
            await read(Headers({}), sending([bytes(MB)] * 3), ROOM, second)
        assert memory.taken == 8 * MB
        answer = refusal(refused.value)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "5"
    assert memory.taken == 0
    with memory.share() as third:
        assert len(await read(Headers({}), sending([bytes(MB)] * 10), ROOM, third)) == 10 * MB


def test_one_request_of_the_largest_size_always_has_room() -> None:
    with BodyMemory.beside(1 << 50).share() as take:
        take(1 << 50)
        with pytest.raises(BodiesTooLarge):
            take(1)
    with BodyMemory.beside(MB).share() as take:
        take(2 * MB)
        with pytest.raises(BodiesTooLarge):
            take(1)


@pytest.mark.parametrize("path", ["/public/services", "/public/services/", "/public/services/triton-client", "/health/liveness"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_a_body_where_nothing_reads_one_is_405(path: str, method: str) -> None:
    async def app(*_: object) -> None:
        pytest.fail("it got through")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": []}
    await AllowedRoutes(app, table(), 4 * MB)(scope, sending([bytes(MB)] * 3), send)
    assert sent[0]["status"] == 405 and b"use GET or HEAD" in sent[1]["body"]


async def test_the_rest_of_a_refused_body_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_DRAIN_SECONDS", 0.3)
    taken = 0

    async def trickle() -> Message:
        nonlocal taken
        taken += 1
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    begun = time.monotonic()
    await Rest(trickle).drain(Headers({"content-length": "4000"}), ROOM.bytes)
    assert 0.25 < time.monotonic() - begun < 2 and taken > 3
