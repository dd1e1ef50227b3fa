"""Connections of hypha-rpc clients, before Hypha has their frames: whose name they may have, and whom they may call."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from bioengine_server.hub.frames import CheckedFrames
from bioengine_server.hub.openness import Openness
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
        self.openness = Openness()
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

        connected = others.__contains__
        frames = CheckedFrames(hypha, lambda caller: SizeLimit(0), connected, connected, self.openness)
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
    assert "which is not connected" in refusal(client)


def refusal(client: Connected) -> str:
    """What a caller was told."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(client.heard[-1]["bytes"])
    answer = unpacker.unpack()
    assert (answer["to"], answer["method"]) == (f"{client.workspace}/{client.client_id}", "asked.reject")
    return str(unpacker.unpack()["args"][0]["_rvalue"])


async def test_nobody_hears_who_is_connected_in_another_workspace() -> None:
    told = set()
    for others in ([], ["ws-y/other"]):
        client = Connected("ws-x/caller", {**CALL, "to": "ws-y/other"})
        await client.run(*others)
        assert client.passed == []
        told.add(refusal(client))
    assert len(told) == 1, "the same, whether it is there or not"


async def test_nobody_is_asked_across_workspaces_without_a_session() -> None:
    """A message may name functions for its answer in another way."""
    client = Connected("ws-x/caller", {"type": "method", "method": "services.built-in.ping", "to": "ws-y/other"})
    await client.run("ws-y/other")
    assert client.passed == []


@pytest.mark.parametrize("to", ["public/other", "ws-y/offers", "ws-y/has-called"])
async def test_who_offers_something_or_has_called_is_called_across_workspaces(to: str) -> None:
    for others, passes in (([to], True), ([], False)):
        client = Connected("ws-x/caller", {**CALL, "to": to})
        client.openness.offers("ws-y/offers")
        client.openness.asks("ws-y/has-called", "ws-x/caller")
        await client.run(*others)
        assert [message["to"] for message in client.passed] == ([to] if passes else [])
        assert passes or "which is not connected" in refusal(client)


async def test_who_is_called_may_call_back() -> None:
    caller, openness = Connected("ws-x/caller", {**CALL, "to": "ws-y/offers"}), Openness()
    openness.offers("ws-y/offers")
    owner, another = (Connected(name, {**CALL, "to": "ws-x/caller"}) for name in ("ws-y/offers", "ws-y/another"))
    for client, to in ((caller, "ws-y/offers"), (owner, "ws-x/caller"), (another, "ws-x/caller")):
        client.openness = openness
        await client.run(to)
    assert (len(owner.passed), len(another.passed)) == (1, 0)


def test_what_is_known_of_a_client_goes_with_it_and_is_bounded() -> None:
    openness = Openness()
    openness.offers("ws-y/other")
    for number in range(1100):
        openness.asks("ws-y/other", f"ws-x/c{number}")
    assert len(openness._asked["ws-y/other"]) == 1000 and openness.is_open("ws-y/other", "ws-z/anybody")
    openness.watch(lambda client: client == "ws-y/other")
    for number in range(3000):  # such as those that left before they were answered
        openness.asks(f"ws-x/c{number}", "ws-y/other")
    assert len(openness._asked) < 1100 and "ws-y/other" in openness._asked
    for number in range(3000):
        openness.forget(f"ws-x/c{number}")
    openness.forget("ws-y/other")
    assert not openness._asked and not openness.is_open("ws-y/other", "ws-x/c1099")


async def test_what_nobody_waits_for_goes_on() -> None:
    """Such as an answer for a client that has just left: it is Hypha that drops it."""
    client = Connected("ws-x/caller", {"type": "method", "method": "services.open.call", "to": "ws-x/gone"})
    await client.run()
    assert len(client.passed) == 1
