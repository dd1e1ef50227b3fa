"""Connections of hypha-rpc clients, before Hypha has their frames: whose name they may have, and whom they may call."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from bioengine_server.hypha.frames import CheckedFrames
from bioengine_server.limits import SizeLimit
from starlette.types import Message, Receive, Scope, Send

WEBSOCKET = {"type": "websocket", "path": "/ws", "query_string": b""}
CALL = {"type": "method", "method": "services.open.call", "session": "asked"}


class Connected:
    """What a client says, what it hears, and what goes on to Hypha."""

    def __init__(self, client: str, *said: dict[str, Any]) -> None:
        """`client`: its name, `<workspace>/<client id>`, as Hypha tells it."""
        self.workspace, _, self.client_id = client.partition("/")
        self._said = [{"type": "websocket.receive", "bytes": msgpack.packb(message)} for message in said]
        self.heard: list[Message] = []
        self.passed: list[dict[str, Any]] = []

    async def run(self, *others: str) -> None:
        """`others`: the names that are those of ends of the server, and of nobody else."""

        async def hypha(scope: Scope, receive: Receive, send: Send) -> None:
            info = {"type": "connection_info", "workspace": self.workspace, "client_id": self.client_id}
            await send({"type": "websocket.send", "text": json.dumps(info)})
            while (event := await receive())["type"] == "websocket.receive":
                unpacker = msgpack.Unpacker()
                unpacker.feed(event["bytes"])
                self.passed.append(unpacker.unpack())

        async def receive() -> Message:
            return self._said.pop(0) if self._said else {"type": "websocket.disconnect", "code": 1000}

        async def send(event: Message) -> None:
            self.heard.append(event)

        frames = CheckedFrames(hypha, lambda caller: SizeLimit(0), is_own=others.__contains__, is_connected=others.__contains__)
        await frames(WEBSOCKET, receive, send)


async def test_the_name_of_an_end_of_the_server_is_nobody_elses() -> None:
    """Whatever comes in chunks for such an end is not checked on its way: the end does that itself."""
    client = Connected("ws-x/taken", {**CALL, "to": "ws-x/taken"})
    await client.run("ws-x/taken")
    assert client.passed == []
    closed = client.heard[-1]
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008) and "client_id is taken" in closed["reason"]


@pytest.mark.parametrize("to", ["ws-x/there", "there", "*/manager-1"])
async def test_who_is_there_is_called(to: str) -> None:
    client = Connected("ws-x/caller", {**CALL, "to": to})
    await client.run("ws-x/there")
    assert [message["to"] for message in client.passed] == [to]


@pytest.mark.parametrize("to", ["ws-x/gone", "gone", "ws-y/there"])
async def test_a_call_of_who_is_not_there_is_answered(to: str) -> None:
    client = Connected("ws-x/caller", {**CALL, "to": to})
    await client.run("ws-x/there")
    assert client.passed == []
    unpacker = msgpack.Unpacker()
    unpacker.feed(client.heard[-1]["bytes"])
    answer = unpacker.unpack()
    assert (answer["to"], answer["method"]) == ("ws-x/caller", "asked.reject")
    assert "which is not connected" in unpacker.unpack()["args"][0]["_rvalue"]


async def test_what_nobody_waits_for_goes_on() -> None:
    """Such as an answer for a client that has just left: it is Hypha that drops it."""
    client = Connected("ws-x/caller", {"type": "method", "method": "services.open.call", "to": "ws-x/gone"})
    await client.run()
    assert len(client.passed) == 1
