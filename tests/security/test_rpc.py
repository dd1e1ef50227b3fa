"""What a client of either generation can try with its messages, and a victim that must not be affected."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from tests.security.attacker import (
    MODEL,
    ROOT_CONTEXT,
    attacker,
    heard,
    manager,
    nothing_has_happened,
    parts,
    say,
    session_of_the_server,
    victim,
)
from tests.security.victim import Victim
from tests.stack.harness import Stack, wait_for
from tests.stack.raw import GENERATIONS, RawClient
from tests.tiers import cases

__all__ = ["attacker", "nothing_has_happened", "victim"]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "way",
    cases(
        [
            "resolve.__globals__.sys.modules.os.system",
            "reject.__globals__.sys.modules.os.system",
            "heartbeat.__globals__.sys.modules.os.system",
            "resolve.__closure__.0.cell_contents.__globals__.sys.modules.os.system",
            "timer._callback.__globals__.sys.modules.os.system",
            "timer._callback.__func__.__globals__.sys.modules.os.system",
            "resolve.__globals__.__builtins__.open",
            "_promise_manager.__class__.__init__.__globals__.sys.modules.os.system",
        ],
        core=["resolve.__globals__.sys.modules.os.system"],
    ),
)
def test_a_function_that_the_server_offers_leads_to_nothing_else(attacker: RawClient, way: str, tmp_path: Path) -> None:
    session = session_of_the_server(attacker)
    target = tmp_path / "made"
    command = [str(target), "w"] if way.endswith("open") else [f"touch {target}"]
    for name in (f"{session}.{way}", f"services.built-in.{way}", f"{attacker.service}.execute.{way.partition('.')[2]}"):
        attacker.send(attacker.frame(name, *command))
        attacker.send(attacker.frame(name, *command, session="answered"))
    heard(attacker)
    assert not target.exists()


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("place", ["main", "body", "chunks", "chunks' body"])
@pytest.mark.parametrize("key", cases(["ctx", "user", "from", "ws"], core=["ctx"]))
def test_a_client_does_not_say_who_it_is(attacker: RawClient, victim: Victim, place: str, key: str) -> None:
    forged = ROOT_CONTEXT if key == "ctx" else ROOT_CONTEXT[key]
    workspace = victim.id.partition("/")[0]
    for method, arguments in (
        ("get_workspace_info", [workspace]),
        ("list_services", [workspace]),
        ("generate_token", [{"workspace": workspace}]),
        ("list_clients", [workspace]),
    ):
        answer = say(attacker, place, f"services.default.{method}", arguments, {key: forged})
        assert "refused" in answer or "Permission" in answer or "not yours" in answer, answer
        assert "eyJ" not in answer  # no token
        if place.endswith("main"):
            assert victim.id not in answer


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "kind",
    cases(["peer_not_found", "error", "disconnect", "connected", "force-exit", "client_disconnected"], core=["disconnect"]),
)
@pytest.mark.parametrize("session", cases(["services", "message_cache", "services.triton-client"], core=["services"]))
def test_a_message_of_another_type_ends_nothing(attacker: RawClient, victim: Victim, kind: str, session: str) -> None:
    ends = [attacker.end, manager(attacker), victim.id, "public/readiness-probe", "public/registration-check"]
    for end in ends:
        message = {"type": kind, "to": end, "session": session, "peer_id": victim.id, "data": {"id": "victim"}}
        attacker.send(msgpack.packb(message))
        attacker.send(msgpack.packb({"type": "method", "to": end, "method": "x"}) + msgpack.packb(message))
    told = heard(attacker)
    assert len(told) == 2 * len(ends) and all("The message is refused" in str(answer) for answer in told), told


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("function", ["services.open.call", "services.closed.secret"])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_server_calls_functions_of_the_caller_alone(
    attacker: RawClient, victim: Victim, function: str, chunked: bool
) -> None:
    """Else it would call somebody's service as the one who is everything to it."""
    progress = {"_rtype": "method", "_rtarget": victim.id, "_rmethod": function, "_rpromise": False}
    arguments = {"inputs": MODEL, "model_name": "bioengine-model-runner", "serialization": "imjoy", "progress": progress}
    frame = attacker.frame(f"{attacker.service}.execute", arguments, session="asked", with_kwargs=True)
    if chunked:
        cache = "services.built-in.message_cache"
        for step, given in (("create", ["k"]), ("append", ["k", frame]), ("process", ["k"])):
            attacker.send(attacker.frame(f"{cache}.{step}", *given, session=f"step-{step}"))
    else:
        attacker.send(frame)
    assert f"passes on a function of '{victim.id}'" in str(heard(attacker))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_answers_go_to_the_caller_alone(attacker: RawClient, victim: Victim) -> None:
    """A promise that resolves elsewhere would have the server call there."""
    frame = attacker.frame(f"{attacker.service}.get_config", {"model_name": "bioengine-model-runner"}, session="asked")
    main, body = parts(frame)
    for part in ("resolve", "reject"):
        promise = {**body["promise"], part: {**body["promise"][part], "_rtarget": victim.id, "_rmethod": "services.open.call"}}
        attacker.send(msgpack.packb(main) + msgpack.packb({**body, "promise": promise}))
    assert str(heard(attacker)).count("The message is refused") == 2


@pytest.mark.parametrize("generation", ["hypha-rpc"])
@pytest.mark.parametrize("forged", [{"ctx": ROOT_CONTEXT}, {"from": "*/root"}, {"user": ROOT_CONTEXT["user"]}, {}], ids=str)
def test_messages_in_chunks_from_client_to_client_are_those_of_who_sent_them(
    attacker: RawClient, victim: Victim, forged: dict[str, Any]
) -> None:
    """The receiver's library believes what they say of themselves."""
    main, body = parts(attacker.frame("services.open.call", "x", session="asked", to=victim.id))
    whole = msgpack.packb(main) + msgpack.packb({**body, **forged})
    for step, given in (("create", ["k"]), ("set", ["k", 0, whole[:40]]), ("set", ["k", 1, whole[40:]]), ("process", ["k"])):
        attacker.send(attacker.frame(f"services.built-in.message_cache.{step}", *given, session=f"step-{step}", to=victim.id))
    told = str(heard(attacker))
    if forged:
        assert "The message is refused" in told and victim.calls == []
    else:
        wait_for(lambda: victim.calls, 5, f"the victim is called; the attacker is told {told}")
        assert [user for user in victim.calls if user.startswith("anonymouz")] == victim.calls and len(victim.calls) == 1
        victim.calls.clear()


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_nobody_changes_the_chunks_of_another_on_their_way(stack: Stack, attacker: RawClient, victim: Victim) -> None:
    cache = "services.built-in.message_cache"
    with RawClient(stack, "hypha-rpc", "second") as second:
        attacker.send(attacker.frame(f"{cache}.create", "k", session="a", to=victim.id))
        assert "refused" not in str(heard(attacker))
        for step, given in (("create", ["k", False, True]), ("set", ["k", 0, b"x"]), ("append", ["k", b"x"]), ("process", ["k"])):
            second.send(second.frame(f"{cache}.{step}", *given, session=f"b-{step}", to=victim.id))
        assert str(heard(second)).count("The message is refused") == 4


@pytest.mark.parametrize("generation", GENERATIONS)
def test_who_calls_is_not_an_argument(attacker: RawClient) -> None:
    arguments = {"context": ROOT_CONTEXT}
    attacker.send(
        attacker.frame("services.default.list_workspaces", arguments, session="asked", with_kwargs=True, to=manager(attacker))
    )
    told = str(heard(attacker))
    assert "ws-user-root" not in told and "victim" not in told


@pytest.mark.parametrize("generation", ["hypha-rpc"])
@pytest.mark.parametrize("between", [[], ["remove"]])
def test_the_receiver_has_the_chunks_that_were_checked(attacker: RawClient, victim: Victim, between: list[str]) -> None:
    """Whatever the two make of a message that is begun twice."""
    main, body = parts(attacker.frame("services.open.call", "x", session="asked", to=victim.id))
    whole = {
        "GOOD": msgpack.packb(main) + msgpack.packb(body),
        "EVIL": msgpack.packb(main) + msgpack.packb({**body, "ctx": ROOT_CONTEXT, "from": "*/root"}),
    }
    for step in ["create", "set EVIL", *between, "create", "append GOOD", "process"]:
        name, _, content = step.partition(" ")
        given = ["k", *([0] if name == "set" else []), *([whole[content]] if content else [])]
        attacker.send(attacker.frame(f"services.built-in.message_cache.{name}", *given, session=f"s-{name}", to=victim.id))
    told = str(heard(attacker))
    wait_for(lambda: victim.calls, 5, f"the victim is called; the attacker is told {told}")
    assert all(user.startswith("anonymouz") for user in victim.calls), victim.calls
    victim.calls.clear()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_one_message_keeps_nobody_waiting(attacker: RawClient, victim: Victim) -> None:
    """Of very many small values: each would take the libraries some 30 microseconds."""
    for values in (b"\x80" * 900_000, b"\x91\xc0" * 400_000, b"\x81\xa1a\xc0" * 100_000):
        main = {"type": "method", "to": manager(attacker), "method": "services.default.echo"}
        count = len(values) // (1 if values[0] == 0x80 else 2 if values[0] == 0x91 else 4)
        with contextlib.suppress(ConnectionClosed):
            attacker.send(msgpack.packb(main) + b"\x81\xa4args\xdd" + count.to_bytes(4, "big") + values)
        started = time.monotonic()
        assert victim.server.echo("there") == "there"
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_message_that_is_begun_again_is_counted_once_and_kept_once(stack: Stack, attacker: RawClient) -> None:
    assert stack.process is not None
    process = psutil.Process(stack.process.pid)
    before = process.memory_info().rss
    for _ in range(30):
        attacker.send(attacker.frame("services.built-in.message_cache.create", "k", False, True))
        for _ in range(20):
            attacker.send(attacker.frame("services.built-in.message_cache.append", "k", bytes(500_000)))
    heard(attacker)
    assert process.memory_info().rss - before < 150e6
    attacker.call("services.built-in.message_cache.remove", "k")
