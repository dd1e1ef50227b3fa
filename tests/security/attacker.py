"""What the tests of attacks through a connection share: a victim, a record of all messages, and ways to send any message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.security.victim import Victim
from tests.stack.harness import Stack
from tests.stack.raw import RawClient

ROOT_CONTEXT = {
    "user": {"id": "root", "is_anonymous": False, "email": None, "parent": None, "roles": ["admin"], "expires_at": None,
             "scope": {"workspaces": {"*": "a"}, "current_workspace": "*", "client_id": None, "extra_scopes": []}},
    "ws": "*", "from": "*/root", "to": "*/root",
}  # fmt: skip
MODEL = [{"model_id": "conscientious-seashell", "inputs": [[0]]}]


@pytest.fixture(scope="module")
def victim(stack: Stack) -> Iterator[Victim]:
    somebody = Victim(stack)
    yield somebody
    somebody.close()


@pytest.fixture(autouse=True)
def nothing_has_happened(request: pytest.FixtureRequest, victim: Victim) -> Iterator[None]:
    yield
    victim.check()


@pytest.fixture
def attacker(stack: Stack, generation: str) -> Iterator[RawClient]:
    with RawClient(stack, generation, "attacker") as client:
        yield client


def manager(client: RawClient) -> str:
    """Where the workspace manager is, as a client knows it."""
    return client.manager if client.manager else "workspace-manager"


def parts(frame: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(frame)
    main = unpacker.unpack()
    try:
        return main, unpacker.unpack()
    except msgpack.OutOfData:
        return main, {}


def heard(client: RawClient, quiet: float = 0.15) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """All that comes until an honest call made now is answered, and it is quiet then."""
    client.send(client.frame("services.default.echo", "done", session="barrier", to=manager(client)))
    messages: list[tuple[dict[str, Any], dict[str, Any]]] = []
    done = False
    while True:
        try:
            message = parts(client.socket.recv(quiet if done else 20, decode=False))
        except TimeoutError:
            return messages
        if message[0].get("method") == "barrier.resolve":
            done = True
        else:
            messages.append(message)


def session_of_the_server(client: RawClient) -> str:
    """A session that the server opens to call a function of the client's."""
    image = {"_rtype": "ndarray", "_rvalue": bytes(768), "_rshape": [1, 3, 16, 16], "_rdtype": "uint8"}
    request = [{"model_id": "conscientious-seashell", "inputs": [image]}]
    progress = {"_rtype": "method", "_rtarget": client.own_id, "_rmethod": "mine.progress", "_rpromise": True, "_rsig": "f(x)"}
    arguments = {"inputs": request, "model_name": "bioengine-model-runner", "serialization": "imjoy", "progress": progress}
    client.send(client.frame(f"{client.service}.execute", arguments, session="mine", with_kwargs=True))
    while True:
        main, _ = parts(client.socket.recv(20, decode=False))
        if main.get("method") == "mine.progress":
            return str(main["session"])


def say(client: RawClient, place: str, method: str, arguments: list[Any], forged: dict[str, Any]) -> str:
    """A call with what is forged, and all that is answered."""
    session = "asked"
    frame = client.frame(method, *arguments, session=session, to=manager(client))
    main, body = parts(frame)
    if place in ("main", "chunks"):
        main |= forged
    else:
        body |= forged
    whole = msgpack.packb(main) + msgpack.packb(body)
    if place in ("main", "body"):
        client.send(whole)
        return json.dumps(heard(client), default=str)
    told = []
    cache = "services.built-in.message_cache"
    for step, given in (("create", ["k"]), ("append", ["k", whole]), ("process", ["k"])):
        client.send(client.frame(f"{cache}.{step}", *given, session=f"step-{step}", to=manager(client)))
        told += heard(client)
    return json.dumps(told, default=str)
