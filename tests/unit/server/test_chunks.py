"""Messages in chunks between this server's ends and both client libraries: what arrives is what was sent, or nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import hypha_rpc.rpc
import msgpack
import numpy as np
import pytest
from bioengine_server.access.refusals import Refusals
from bioengine_server.gateway.rpc import MANAGER_ID
from bioengine_server.hypha import chunks
from bioengine_server.hypha.rpc_limits import LimitedRPC
from bioengine_server.limits import SizeLimit

from tests.unit.server.legacy import Connection, Wire

CACHE = "services.built-in.message_cache"
PING = "services.built-in.ping"
USER = {"id": "ada", "is_anonymous": False, "email": None, "roles": [], "scope": {}}


class Line(Wire):
    """One end of a connection, which names the sender as Hypha does, and may lose what it is told to."""

    manager_id = None
    workspace = "ws"

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.is_lost: Callable[[dict[str, Any]], bool] = lambda call: False

    def on_connected(self, handler: Any) -> None:
        pass

    on_disconnected = on_connected

    async def emit_message(self, frame: bytes) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        unpacker.feed(frame)
        main = unpacker.unpack()
        rest = frame[unpacker.tell() :]
        to = main["to"] if "/" in main["to"] else f"ws/{main['to']}"
        call = {**main, **(msgpack.unpackb(rest) if rest else {})}
        self.sent.append(call)
        self.sizes.append(len(frame))
        if not self.is_lost(call):
            await super().emit_message(msgpack.packb({**main, "from": self.name, "to": to, "ws": "ws", "user": USER}) + rest)

    def of_cache(self) -> list[dict[str, Any]]:
        """The steps of messages in chunks that were sent."""
        return [call for call in self.sent if call["method"].startswith(CACHE)]

    def steps(self) -> list[str]:
        return [call["method"].removeprefix(f"{CACHE}.") for call in self.of_cache()]


class Ends:
    """A limited endpoint that offers a service, and a client of hypha-rpc."""

    def __init__(self, limit: int, refusals: Refusals | None = None) -> None:
        self.here, self.there = Line("ws/server"), Line("ws/client")
        self.here.other, self.there.other = self.there, self.here
        limited = type(
            "Limited", (LimitedRPC,), {"limit_of": staticmethod(lambda caller: SizeLimit(limit)), "refusals": refusals}
        )
        self.server = limited(self.here, client_id="server", workspace="ws", method_timeout=5)
        self.client = hypha_rpc.rpc.RPC(self.there, client_id="client", workspace="ws", method_timeout=1, silent=True)
        service = {"echo": lambda image: image, "size": lambda image: image.nbytes}
        self.server.add_service({"id": "images", "config": {"visibility": "public"}, **service})

    async def service(self) -> Any:
        return await self.client.get_remote_service("ws/server:images")

    async def end(self) -> None:
        await asyncio.gather(self.server.disconnect(), self.client.disconnect())


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends(limit=100_000_000)
    yield ends
    await ends.end()


def image(megabytes: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, int(megabytes * 1e6), np.uint8)


@pytest.mark.parametrize("megabytes", [0.1, 0.5, 4, 20])
async def test_an_image_comes_back_as_it_was_sent(ends: Ends, megabytes: float) -> None:
    sent = image(megabytes)
    service = await ends.service()
    np.testing.assert_array_equal(await service.echo(sent), sent)


async def test_several_images_at_once_come_back_each_to_its_own_call(ends: Ends) -> None:
    service = await ends.service()
    sent = [image(3 + seed, seed) for seed in range(5)]
    for back, own in zip(await asyncio.gather(*map(service.echo, sent)), sent, strict=True):
        np.testing.assert_array_equal(back, own)


async def test_few_chunks_of_an_answer_are_answered(ends: Ends) -> None:
    await (await ends.service()).echo(image(4))
    assert ends.here.steps() == ["create", *["set"] * 9, "process"]
    assert not any(call["method"].endswith("get_service") for call in ends.here.sent), "nor is asked what the client offers"
    assert [number for number, call in enumerate(ends.here.of_cache()) if "session" in call] == [5, 9], (
        "one in 2 MB, and the last chunk"
    )


async def test_a_slow_client_gets_no_more_than_it_can_take(ends: Ends) -> None:
    await (await ends.service()).echo(image(20))
    sent = ends.here.of_cache()
    asked = [number for number, call in enumerate(sent) if "session" in call]
    assert len(asked) == 9 and asked[-1] == len(sent) - 2
    assert 1.5e6 < sum(len(call["args"][2]) for call in sent[1 : asked[0]]) < 2e6


async def test_a_client_that_has_gone_is_sent_no_more_of_a_long_answer(ends: Ends) -> None:
    service = await ends.service()
    ends.server._method_timeout = 0.2
    ends.here.is_lost = lambda call: call["method"].startswith(CACHE)
    with pytest.raises(Exception, match="timed out"):
        await service.echo(image(20))
    assert ends.here.steps() == ["create", *["set"] * 5]


@pytest.mark.parametrize(("lost", "which"), [("create", 1), ("set", 1), ("set", 3), ("set", 9), ("process", 1)])
async def test_an_answer_of_which_a_step_is_lost_is_no_answer(ends: Ends, lost: str, which: int) -> None:
    service = await ends.service()
    seen: list[dict[str, Any]] = []

    def is_lost(call: dict[str, Any]) -> bool:
        seen.extend([call] if call["method"] == f"{CACHE}.{lost}" else [])
        return len(seen) == which and call is seen[-1]

    ends.here.is_lost = is_lost
    ends.server._method_timeout = 0.5
    with pytest.raises(Exception, match="timed out"):
        await service.echo(image(4))
    assert len(seen) >= which


@pytest.mark.parametrize("lost", ["create", "set", "process"])
async def test_a_call_of_which_a_step_is_lost_is_not_made(ends: Ends, lost: str) -> None:
    service = await ends.service()
    ends.there.is_lost = lambda call: call["method"] == f"{CACHE}.{lost}" and (lost != "set" or call["args"][1] == 2)
    with pytest.raises(Exception, match="timed out"):
        await service.size(image(4))


async def call(ends: Ends, step: str, *args: Any) -> Any:
    """A step of a message in chunks, as a client sends it."""
    method = {"_rtarget": "ws/server", "_rmethod": f"{CACHE}.{step}", "_rpromise": "*"}
    return await ends.client._generate_remote_method(method)(*args)


async def test_each_step_of_a_client_is_answered_once(ends: Ends) -> None:
    await (await ends.service()).size(image(2))
    sessions = [call["session"] for call in ends.there.sent if call["method"].startswith(CACHE)]
    answers = [call["method"] for call in ends.here.sent]
    assert len(sessions) == 1 + 8 + 1
    assert all(answers.count(f"{session}.resolve") == 1 for session in sessions)


async def test_a_step_that_is_refused_is_told(ends: Ends) -> None:
    with pytest.raises(Exception, match="There is no message unknown of this client"):
        await call(ends, "set", "unknown", 0, b"x", False)
    await call(ends, "create", "key", False)
    with pytest.raises(Exception, match="number of a chunk must be a whole number, not str"):
        await call(ends, "set", "key", "0", b"x", False)
    with pytest.raises(Exception, match="A chunk must be bytes, not str"):
        await call(ends, "append", "key", "x", False)
    with pytest.raises(Exception, match="missing 1 required positional argument: 'data'"):
        await call(ends, "set", "key", 0)
    await call(ends, "set", "key", 2, b"x", False)
    with pytest.raises(Exception, match="Chunks of the message are missing"):
        await call(ends, "process", "key", False)
    with pytest.raises(Exception, match="There is no message key of this client"):
        await call(ends, "process", "key", False)


async def test_chunks_may_come_in_any_order(ends: Ends) -> None:
    whole = chunks.frame({"type": "method", "to": "ws/server", "method": "services.images.size"}, [[1]])
    await call(ends, "create", "key", False)
    for index in reversed(range(len(whole))):
        await call(ends, "set", "key", index, whole[index : index + 1], False)
    assert await call(ends, "process", "key", False) is None


async def test_what_is_too_large_is_refused_with_its_reason() -> None:
    ends = Ends(limit=1_000_000)
    with pytest.raises(Exception, match="this server takes at most 1 MB"):
        await (await ends.service()).size(image(4))
    assert await (await ends.service()).size(image(1)) == 1_000_000
    await ends.end()


@pytest.mark.parametrize("changed", [
    {"method": f"{CACHE}.steal"}, {"method": f"{CACHE}.append.x"}, {"method": "services.images.append"}, {"with_kwargs": True},
    {"args": [["key"], b"x"]}, {"args": [{"_rtype": "ndarray"}, b"x"]}, {"args": None}, {"promise": {"resolve": {}}},
    {"session": None},
])  # fmt: skip
def test_what_is_called_in_another_way_is_left_to_the_library(changed: dict[str, Any]) -> None:
    usual = {"method": f"{CACHE}.append", "args": ["key", b"x", False], "promise": "*", "session": "abc"}
    assert chunks.step_of(usual) == "append" and chunks.step_of({**usual, **changed}) is None


class Legacy:
    """A client of imjoy-rpc and the server's end for it, which offers a service."""

    def __init__(self) -> None:
        self.connection = Connection()
        service = {"id": "images", "config": {"visibility": "public"}, "make": lambda size: np.arange(size, dtype=np.uint8)}
        self.connection.end.add_service(service)
        self.calls: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.is_lost: Callable[[dict[str, Any]], bool] = lambda call: False
        self._send: Callable[[bytes], Awaitable[None]] = self.connection.end._send_frame
        self.connection.end._send_frame = self._recorded

    async def make(self, size: int) -> np.ndarray:
        service = await self.connection.client.get_remote_service(f"{MANAGER_ID}:images")
        made: np.ndarray = await service.make(size)
        return made

    async def _recorded(self, frame: bytes) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        unpacker.feed(frame)
        self.calls.append(unpacker.unpack())
        self.sizes.append(len(frame))
        if not self.is_lost(self.calls[-1]):
            await self._send(frame)

    def count(self, method: str) -> int:
        return sum(call["method"] == method for call in self.calls)


@pytest.fixture
async def legacy() -> AsyncIterator[Legacy]:
    legacy = Legacy()
    yield legacy
    await legacy.connection.end_all()


@pytest.mark.parametrize(("size", "appended", "pings"), [(100_000, 0, 0), (4_100_000, 5, 3), (20_500_000, 21, 11)])
async def test_imjoy_rpc_has_answers_in_few_large_chunks(legacy: Legacy, size: int, appended: int, pings: int) -> None:
    np.testing.assert_array_equal(await legacy.make(size), np.arange(size, dtype=np.uint8))
    assert legacy.count(f"{CACHE}.append") == appended and legacy.count(PING) == pings
    assert max(legacy.sizes) < 1_024_000, "what the library takes"
    assert not any("session" in call for call in legacy.calls if call["method"].startswith(CACHE))


@pytest.mark.parametrize("lost", ["create", "append", "process"])
async def test_imjoy_rpc_takes_no_answer_of_which_a_step_is_lost(legacy: Legacy, lost: str) -> None:
    legacy.connection.client._method_timeout = 1
    legacy.is_lost = lambda call: call["method"] == f"{CACHE}.{lost}" and legacy.count(f"{CACHE}.{lost}") == 1
    with pytest.raises(Exception, match=r"time.?out"):
        await legacy.make(4_100_000)
