"""Messages of both generations, changed in every part, sent to the real Hypha with a victim that must not be affected.

Without Triton, which frames do not reach. Each batch of attacks is followed by honest calls, all of it by a look at everything
that must be as it was: the victim's workspace, services, token and calls, what the server's own ends offer, and its process.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypha_rpc.sync import connect_to_server
from websockets.exceptions import ConnectionClosed

from tests.stack.harness import Stack, get, wait_for
from tests.stack.raw import GENERATIONS, RawClient

FRAMES = int(os.environ.get("FUZZ_FRAMES", "20000"))
SEED = os.environ.get("FUZZ_SEED", str(time.time_ns()))
AT_ONCE = 200  # frames between two looks at the victim

NAMES = [
    "services.default.echo", "services.default.list_services", "services.default.generate_token", "services.default.get_service",
    "services.default.register_service", "services.default.log_event", "services.default.get_workspace_info",
    "services.built-in.ping", "services.built-in.get_service", "services.built-in.register_service",
    "services.built-in.message_cache.create", "services.built-in.message_cache.append", "services.built-in.message_cache.set",
    "services.built-in.message_cache.process", "services.built-in.message_cache.remove", "services.open.call",
    "services.closed.secret", "services.default.echo.__globals__", "services.default.__class__", "message_cache", "services",
    "SESSION.resolve", "SESSION.resolve.__globals__.sys.modules.os.system", "SESSION.timer.reset", "SESSION", "", "..",
]  # fmt: skip
KEYS = [
    "ctx", "user", "ws", "from", "to", "type", "method", "session", "parent", "args", "with_kwargs", "promise", "t", "_enc",
    "data", "peer_id", "error", "roles", "__proto__", "_rtype",
]  # fmt: skip
MARKERS = [
    "_rtype",
    "_rtarget",
    "_rmethod",
    "_rpromise",
    "_rvalue",
    "_rfile",
    "_enc",
    "_rshape",
    "_rdtype",
    "_rintf",
    "_renc_pub",
]
TYPES = ["method", "peer_not_found", "error", "connected", "disconnect", "generator", "ndarray", "pydantic_model", "iostream"]
ROOT = {"id": "root", "roles": ["admin"], "is_anonymous": False, "scope": {"workspaces": {"*": "a"}, "current_workspace": "*"}}


class World:
    """The server, the victim and the attackers' connections."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.calls: list[str] = []
        self.victim = connect_to_server({"server_url": stack.url, "client_id": "victim"})
        self.workspace = self.victim.config["workspace"]
        note = self.calls.append
        self.victim.register_service(
            {
                "id": "open",
                "config": {"visibility": "public", "require_context": True},
                "call": lambda *_, context=None, **__: note(str(context["user"]["id"])),
            }
        )
        self.victim.register_service(
            {"id": "closed", "config": {"visibility": "protected"}, "secret": lambda *_, **__: note("secret")}
        )
        self.token = self.victim.generate_token({"expires_in": 3600})
        self.attackers = {
            generation: RawClient(stack, generation, f"fuzz-{generation}", find=False, reads=False) for generation in GENERATIONS
        }
        self.before = self.seen()

    def attacker(self, generation: str) -> RawClient:
        """The attacker's connection; anew where the server has ended the last one."""
        client = self.attackers[generation]
        if client.socket.state.name != "OPEN":
            client = self.attackers[generation] = RawClient(self.stack, generation, f"fuzz-{generation}", find=False, reads=False)
        return client

    def seen(self) -> dict[str, Any]:
        """All that must stay as it is."""
        assert self.stack.process is not None and self.stack.process.poll() is None
        again = connect_to_server({"server_url": self.stack.url, "token": self.token, "client_id": "again"})
        found = {
            "services": sorted(
                str(service["id"]) for service in self.victim.list_services() if "/again:" not in str(service["id"])
            ),
            "public": sorted(str(service["id"]) for service in self.victim.list_services("public")),
            "workspace": again.config["workspace"],
            "manager": sorted(self.victim.get_service("~")),
            "login": sorted(self.victim.get_service("public/hypha-login")),
            "liveness": get(f"{self.stack.url}/health/liveness")[0],
        }
        again.disconnect()
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home: Path = tmp_path_factory.mktemp("fuzz") / "home"
    with Stack(home, "--workers-only", wait=False) as running:
        wait_for(lambda: get(f"{running.url}/health/liveness")[0] == 200, 60, "alive")
        yield World(running)


VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 1.5, "", "x", "services", "root", "*", "*/root", [], {}, b"", b"x" * 300, ROOT,
    {"user": ROOT},
]  # fmt: skip
TARGETS = ["MANAGER", "VICTIM", "OWN", "public/hypha-login", "public/x", "*", "*/x", "workspace-manager"]
WAYS = [*["whole"] * 5, *["promise"] * 5, *["chunks"] * 3, "cut", "bytes"]


class Frames:
    """Frames that follow from a seed. Hypothesis would take four fifths of the test's time to draw them."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._choice = self._random.choice

    def __iter__(self) -> Iterator[Any]:
        while True:
            arguments = [self._nested(3) for _ in self._up_to(4)]
            changes = [(self._choice(["main", "body"]), self._choice(KEYS), self._changed()) for _ in self._up_to(3)]
            yield self._choice(NAMES), self._choice(TARGETS), arguments, changes, self._choice(WAYS), self._bytes(30)

    def _up_to(self, most: int) -> range:
        return range(self._random.randint(0, most))

    def _bytes(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))

    def _text(self, most: int) -> str:
        """A word of the protocol's, or any characters but halves of surrogate pairs, which MessagePack has none of."""
        if self._choice([True, False]):
            return self._choice([*NAMES, *KEYS, *MARKERS, *TYPES])
        last = self._choice([0x7F, 0xFF, 0xFFFF, 0x10FFFF])
        return "".join(chr(self._random.randint(0, last)) for _ in self._up_to(most)).encode(errors="ignore").decode()

    def _value(self) -> Any:
        return self._text(20) if self._choice([True, False]) else self._choice(VALUES)

    def _markers(self) -> dict[str, Any]:
        return {
            self._choice(MARKERS): self._choice([self._value(), self._choice([*TYPES, *NAMES, "VICTIM", "OWN"])])
            for _ in self._up_to(4)
        }

    def _changed(self) -> Any:
        return self._choice([self._value, self._markers, lambda: self._choice(TYPES + NAMES)])()

    def _nested(self, depth: int) -> Any:
        """A value, or markers; or lists and dicts of them, so many in each other at most."""
        kind = self._choice(["value", "markers", "list", "dict"] if depth else ["value", "markers"])
        if kind == "list":
            return [self._nested(depth - 1) for _ in self._up_to(3)]
        if kind == "dict":
            return {self._text(4): self._nested(depth - 1) for _ in self._up_to(3)}
        return self._value() if kind == "value" else self._markers()


@pytest.mark.extended
@pytest.mark.parametrize("generation", GENERATIONS)
def test_no_frame_changes_anything_for_others(world: World, generation: str) -> None:
    print(f"FUZZ_SEED={SEED} has the same frames again")
    wanted = FRAMES // len(GENERATIONS)
    sent = 0
    batch: list[Any] = []
    try:
        for frame in itertools.islice(Frames(f"{SEED} {generation}"), wanted):
            batch.append(frame)
            before = sent
            sent += send(world, generation, frame)
            if sent // AT_ONCE != before // AT_ONCE:
                honest_calls(world, generation)
                batch.clear()
        honest_calls(world, generation)
        assert world.seen() == world.before
    except BaseException:
        print(f"The last frames, of which one is to blame: {batch}")
        raise
    assert sent >= wanted


def honest_calls(world: World, generation: str) -> None:
    """The victim's own calls work, nobody called what is closed, and nobody came as somebody else."""
    assert world.victim.echo("honest") == "honest"
    assert "secret" not in world.calls and not [user for user in world.calls if not user.startswith("anonymouz")], world.calls
    world.calls.clear()
    client = world.attacker(generation)
    try:
        assert client.call("services.default.echo", "mine", to=client.manager or "workspace-manager") == "mine"
    except ConnectionClosed:  # by a frame before, which was none
        world.attackers[generation] = RawClient(world.stack, generation, f"fuzz-{generation}", find=False, reads=False)


def send(world: World, generation: str, frame: Any) -> int:
    """One attack; how many frames were sent."""
    method, target, arguments, changes, way, junk = frame
    client = world.attacker(generation)
    places = {"MANAGER": client.manager or "workspace-manager", "VICTIM": f"{world.workspace}/victim", "OWN": client.own_id}
    arguments = filled(arguments, places)
    session = "" if way == "whole" else "mine"
    main, body = msgpack_parts(client.frame(method.replace("SESSION", "mine"), *arguments, session=session))
    main["to"] = places.get(target, target)
    for place, key, value in changes:
        (main if place == "main" else body)[key] = filled(value, places)
    whole = msgpack.packb(main) + msgpack.packb(body)
    data = {"cut": whole[: len(whole) // 2], "bytes": junk + whole}.get(way)
    try:
        if way == "chunks":
            cache = "services.built-in.message_cache"
            steps: list[tuple[str, list[Any]]] = [
                ("create", ["k", False, True]),
                ("append", ["k", whole]),
                ("process", ["k"]),
                ("remove", ["k"]),
            ]
            for step, given_ in steps:
                client.send(client.frame(f"{cache}.{step}", *given_, to=main["to"] if isinstance(main["to"], str) else "x"))
            return len(steps)
        client.send(data or whole)
    except ConnectionClosed:  # as it should be where a frame is none
        return 0
    return 1


def filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, places) for item in value]
    return places.get(value, value) if isinstance(value, str) else value


def msgpack_parts(frame: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(frame)
    return unpacker.unpack(), unpacker.unpack()
