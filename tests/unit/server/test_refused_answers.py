"""Answers that the server does not pass on: whoever waits for one is told at once, whichever way it came."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest
from bioengine_server.hypha import chunks, uploads

from tests.unit.server.legacy import Connection
from tests.unit.server.test_chunks import CACHE, Ends
from tests.unit.server.test_frames import Connected

BOB = {"user": {"id": "bob"}, "ws": "ws-x", "from": "ws-x/bob"}
SESSION = "a2b4c6d8e0f2g4h6i8j0"


@pytest.mark.parametrize("size", [10, 1_500_000])
async def test_the_caller_of_an_imjoy_rpc_client_is_told(size: int) -> None:
    connection = Connection()
    manager = await connection.manager()
    other = await manager.get_service("other")

    async def give() -> dict[str, Any]:
        return {"call": other.call, "more": "x" * size}  # a function of somebody else

    await manager.register_service({"id": "giver", "config": {"visibility": "public"}, "give": give})
    async with asyncio.timeout(8):
        with pytest.raises(Exception, match=r"The answer was not passed on.*it passes on a function of"):
            await connection.hypha.services["giver"]["give"](context=BOB)
    await connection.end_all()


async def test_an_end_of_the_server_is_told_of_an_answer_in_chunks() -> None:
    ends = Ends(limit=100_000_000)
    ends.server._method_timeout = 30
    refused = {"_rtype": "pydantic_model", "_rvalue": "x" * 1_500_000}
    ends.client.add_service({"id": "giver", "config": {"visibility": "public"}, "give": lambda: refused})
    service = await ends.server.get_remote_service("ws/client:giver")
    async with asyncio.timeout(8):
        with pytest.raises(Exception, match=r"The answer was not passed on.*has the type 'pydantic_model'"):
            await service.give()
    await ends.end()


@pytest.mark.parametrize("is_legacy", [True, False])
async def test_whoever_waits_for_an_answer_that_is_too_large_is_told(monkeypatch: pytest.MonkeyPatch, is_legacy: bool) -> None:
    monkeypatch.setattr(uploads, "_ANSWER_TO_REQUEST", 0)
    ends, connection = Ends(limit=100_000_000), Connection()
    ends.server._method_timeout = 30
    service = {"id": "giver", "config": {"visibility": "public"}, "give": lambda: b"x" * 5_000_000}
    async with asyncio.timeout(8):
        with pytest.raises(Exception, match=r"The answer was not passed on.*it is too large"):
            if is_legacy:
                await (await connection.manager()).register_service(service)
                await connection.hypha.services["giver"]["give"](context=BOB)
            else:
                ends.client.add_service(service)
                await (await ends.server.get_remote_service("ws/client:giver")).give()
    await connection.end_all()
    await ends.end()


async def test_another_client_is_told_of_an_answer_in_chunks() -> None:
    body = [{"_rtype": "pydantic_model"}]
    whole = chunks.frame({"type": "method", "to": "ws-x/waits", "method": f"{SESSION}.resolve"}, body)
    steps: list[tuple[str, list[Any]]] = [
        ("create", [SESSION, True]), ("set", [SESSION, 0, whole, True]), ("process", [SESSION, True])
    ]  # fmt: skip
    to = {"type": "method", "to": "ws-x/waits"}
    client = Connected("ws-x/answers", *({**to, "method": f"{CACHE}.{step}", "args": args} for step, args in steps))
    await client.run()
    assert [message["method"] for message in client.passed] == [f"{CACHE}.create", f"{CACHE}.set", f"{SESSION}.reject"]
    assert client.passed[-1]["to"] == "ws-x/waits"
    unpacker = msgpack.Unpacker()
    unpacker.feed(client.heard[-1]["bytes"])
    assert "has the type 'pydantic_model'" in unpacker.unpack()["message"], "and who sends it is told too"


async def test_another_client_is_told_of_an_answer_that_is_too_large() -> None:
    """The limit of the client is 0 here, and a megabyte for what is not input."""
    main = msgpack.packb({"type": "method", "to": "ws-x/waits", "method": f"{SESSION}.resolve"})
    steps: list[tuple[str, list[Any]]] = [
        ("create", [SESSION, True]), ("set", [SESSION, 0, main, True]), ("set", [SESSION, 1, b"x" * 1_100_000, True])
    ]  # fmt: skip
    to = {"type": "method", "to": "ws-x/waits"}
    client = Connected("ws-x/answers", *({**to, "method": f"{CACHE}.{step}", "args": args} for step, args in steps))
    await client.run()
    assert [message["method"] for message in client.passed] == [f"{CACHE}.create", f"{CACHE}.set", f"{SESSION}.reject"]
