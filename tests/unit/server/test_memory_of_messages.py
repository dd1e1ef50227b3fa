"""What a message or a connection took is free when nobody uses it any more, and not only when the garbage collector comes."""

from __future__ import annotations

import asyncio
import gc
import importlib
import tracemalloc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import hypha_rpc.rpc
import hypha_rpc.utils
import numpy as np
import pytest
from bioengine_server.foreign import hypha_rpc as border
from bioengine_server.http.server import HttpServer, listen
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonError
from tritonclient.utils import InferenceServerException
from websockets.asyncio.client import connect


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((hypha_rpc.rpc, "Timer"), (hypha_rpc.utils, "munchify"), (hypha_rpc.utils, "unmunchify")):
        monkeypatch.setattr(module, name, getattr(module, name))
    border.mend_timers()
    border.mend_maps()


class Image:
    """Something large."""


async def test_the_timer_of_a_call_that_is_answered_does_not_start(mended: None) -> None:
    """Within one process the answer comes first: the timer kept all of the call and its connection, for its whole time."""
    timer = hypha_rpc.rpc.Timer(30, lambda: None)
    before = asyncio.all_tasks()
    assert timer.started, "or the library does not clear it"
    timer.clear()
    timer.start()
    timer.reset()  # a heartbeat that comes late
    assert asyncio.all_tasks() == before


async def test_the_timer_of_a_call_without_an_answer_ends_it_after_its_last_heartbeat(mended: None) -> None:
    ended = asyncio.Event()
    timer = hypha_rpc.rpc.Timer(0.2, ended.set)
    timer.start()
    for _ in range(3):
        await asyncio.sleep(0.1)
        timer.reset()
        assert not ended.is_set()
    async with asyncio.timeout(5):
        await ended.wait()


def test_maps_of_messages_keep_nothing(mended: None, no_collector: None) -> None:
    image = Image()
    kept = weakref.ref(image)
    hypha_rpc.utils.ObjectProxy.fromDict({"inputs": [{"image": image}]}).toDict()
    del image
    assert kept() is None


def test_maps_of_messages_are_as_the_library_makes_them(mended: None) -> None:
    shared = {"keys": 1, "items": (2, [{"b": 3}])}
    message = {"a": shared, "again": [shared], "bytes": b"1"}
    made = hypha_rpc.utils.ObjectProxy.fromDict(message)
    assert made == importlib.import_module("munch").munchify(message, hypha_rpc.utils.ObjectProxy)
    assert type(made) is type(made["a"]) is type(made["a"]["items"][1][0]) is hypha_rpc.utils.ObjectProxy
    assert made["a"] is made["again"][0], "what is in it twice stays one"
    plain = made.toDict()
    assert plain == message and type(plain["a"]) is dict
    ring: dict[str, Any] = {}
    ring["itself"] = ring
    converted = hypha_rpc.utils.ObjectProxy.fromDict(ring)
    assert converted["itself"] is converted


async def test_an_error_of_triton_keeps_nothing_of_the_request(no_collector: None) -> None:
    def refuse() -> None:
        error = InferenceServerException("no such output", "400")  # in a variable, as the library has it
        raise error

    sent: list[weakref.ref[Any]] = []

    async def infer(name: str, inputs: Any, **_: Any) -> None:
        sent.extend(map(weakref.ref, inputs))
        refuse()

    api = TritonApi("http://127.0.0.1:1", "secret", 1.0)
    await api.close()
    client: Any = SimpleNamespace(infer=infer)  # a fake, since no Triton fails at will
    api._client = client
    with pytest.raises(TritonError, match="no such output") as refused:
        await api.infer("shark", [("image", np.zeros(4, np.float32))])
    assert refused.value.status == 400
    del refused
    assert [tensor() for tensor in sent] == [None]


async def test_a_websocket_that_has_gone_keeps_nothing_of_its_last_frame(no_collector: None) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (event := await receive())["type"] != "websocket.disconnect":
            if event["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            else:
                await send({"type": "websocket.send", "bytes": event["bytes"][:1]})

    async def say(length: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}", compression=None) as client:
            await client.send(bytes(length))
            await client.recv()
            client.transport.abort()

    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(app, listener, peer_connections=10)
    await server.start()
    tracemalloc.start()
    try:
        await say(1)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            await say(2_000_000)
        await asyncio.sleep(0.1)
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
    finally:
        tracemalloc.stop()
        await server.stop()
