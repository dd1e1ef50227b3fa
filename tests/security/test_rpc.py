"""What a client of either generation tries through its connection, and the victim that notices nothing of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.security.victim import Victim
from tests.stack.harness import Stack, wait_for
from tests.stack.raw import GENERATIONS, RawClient

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
    messages = []
    done = False
    while True:
        try:
            message = parts(client.socket.recv(quiet if done else 20))
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
        main, _ = parts(client.socket.recv(20))
        if main.get("method") == "mine.progress":
            return str(main["session"])


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "way",
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
@pytest.mark.parametrize("key", ["ctx", "user", "from", "ws"])
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


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kind", ["peer_not_found", "error", "disconnect", "connected", "force-exit", "client_disconnected"])
@pytest.mark.parametrize("session", ["services", "message_cache", "services.triton-client"])
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
        wait_for(lambda: victim.calls, 5, "the victim is called")
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


@pytest.mark.parametrize("generation", ["hypha-rpc"])
@pytest.mark.parametrize(
    "changes",
    [
        {"type": "x:public/bioengine:triton-client@*"}, {"type": "triton-client:public/bioengine"}, {"type": "a*"},
        {"type": "a|b"}, {"id": "public/attacker:triton-client"}, {"id": "public/bioengine:triton-client"},
        {"app_id": "*:public/x:triton-client@"},
        {"app_id": "a@b"}, {"id": "attacker:triton-client@x:public/bioengine:triton-client"}, {"id": "attacker:*"},
        {"config": {"visibility": "public", "workspace": "public"}}, {},
    ],
    ids=str,
)  # fmt: skip
def test_nobody_else_is_found_under_the_name_of_the_service(attacker: RawClient, changes: dict[str, Any]) -> None:
    service = {
        "id": "attacker:triton-client",
        "name": "BioEngine",
        "type": "triton-client",
        "config": {"visibility": "public"},
        **changes,
    }
    attacker.send(attacker.frame("services.default.register_service", service, session="asked", to=manager(attacker)))
    heard(attacker)  # what `victim.check` finds is what counts


@pytest.mark.parametrize("generation", ["hypha-rpc"])
@pytest.mark.parametrize(
    "method",
    [
        "log_event", "get_event_stats", "get_events", "set_env", "get_env", "search_services", "register_service_type",
        "revoke_token",
        "list_service_types", "parse_token", "delete_workspace", "bookmark", "unbookmark", "cleanup", "check_status",
    ],
)  # fmt: skip
def test_of_the_manager_clients_may_call_what_they_need(attacker: RawClient, method: str) -> None:
    attacker.send(attacker.frame(f"services.default.{method}", session="asked", to=manager(attacker)))
    assert f"this server does not offer '{method}' to clients" in str(heard(attacker))


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_what_clients_log_is_not_kept(stack: Stack, attacker: RawClient) -> None:
    folder = stack.settings.node_folder
    before = sum(file.stat().st_size for file in folder.glob("hypha.sqlite*"))
    for _ in range(200):
        attacker.send(attacker.frame("services.default.log", "x" * 50_000, to=manager(attacker)))
    heard(attacker)
    assert sum(file.stat().st_size for file in folder.glob("hypha.sqlite*")) - before < 100_000
    assert "x" * 2000 not in stack.log


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_the_manager_calls_no_function_of_the_clients_choice(attacker: RawClient) -> None:
    for mode in ("select:min:execute", "select:first_success:__class__", "select:max:secret", ["random"], 5):
        for name, arguments in (
            ("get_service", ["public/triton-client", {"mode": mode}]),
            ("get_service_info", ["x", {"mode": mode}]),
        ):
            attacker.send(attacker.frame(f"services.default.{name}", *arguments, session="asked", to=manager(attacker)))
    told = heard(attacker)
    assert len(told) == 10 and all("asked.reject" in str(answer) for answer in told)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("step", ["register_service", "get_service"])
def test_the_servers_own_ends_take_no_services(attacker: RawClient, step: str) -> None:
    service = {"id": "default", "config": {"visibility": "public"}}
    for end in (attacker.end, manager(attacker)):
        attacker.send(attacker.frame(f"services.built-in.{step}", service, True, False, session="asked", to=end))
    assert str(heard(attacker)).count("asked.reject") == 2


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("id", ["triton-client", "public/triton-client", "public/bioengine:triton-client", "~", "VICTIM:open"])
def test_nobody_withdraws_the_service_of_another(stack: Stack, attacker: RawClient, victim: Victim, id: str) -> None:
    registered = stack.log.count("Registered public/bioengine:triton-client")
    attacker.send(
        attacker.frame(
            "services.default.unregister_service", id.replace("VICTIM", victim.id), session="asked", to=manager(attacker)
        )
    )
    assert "asked.reject" in str(heard(attacker))
    assert stack.log.count("Registered public/bioengine:triton-client") == registered


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_the_manager_calls_nobody_for_a_client_that_has_no_part_in_it(stack: Stack, attacker: RawClient, victim: Victim) -> None:
    """Also not for one that has the name under which Hypha itself asks."""
    with RawClient(stack, "hypha-rpc", "check-client-exists") as other:
        for client in (attacker, other):
            for id in (victim.id, "public/bioengine", f"{victim.id.partition('/')[0]}/*"):
                assert "Permission denied" in str(client.call("services.default.ping", id, to=manager(client)))
            with pytest.raises(RuntimeError, match="is not the id of a client"):
                client.call("services.default.ping", "*", to=manager(client))


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_what_is_kept_of_a_clients_services_is_bounded(attacker: RawClient) -> None:
    def register(number: int, description: str) -> Any:
        config = {"visibility": "protected"}
        service = {"id": f"attacker:s{number}", "name": "s", "type": "x", "description": description, "config": config}
        return attacker.call("services.default.register_service", service, to=manager(attacker))

    attacker.send(attacker.frame("services.built-in.ping", "ping"))
    with pytest.raises(RuntimeError, match=r"characters\. Expected 300,000 at most"):
        register(0, "x" * 400_000)
    for method in ("get_service", "get_service_info"):
        with pytest.raises(RuntimeError):
            attacker.call(f"services.default.{method}", "triton-client", {"timeout": -1, "mode": "x"}, to=manager(attacker))


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_nobody_becomes_the_manager_by_its_name(stack: Stack, attacker: RawClient, victim: Victim) -> None:
    """A client of the manager's name would have functions that the library takes for the manager's own."""
    name = attacker.manager.removeprefix("*/")
    with RawClient(stack, "hypha-rpc", name) as client:
        its = {"_rtype": "method", "_rtarget": name, "_rmethod": "services.default.generate_token", "_rpromise": True}
        for value in ({"_rintf": True, "f": its}, {"_rintf": True, "a": {"b": [its]}}, [{"_rintf": True, "f": its}]):
            client.send(client.frame("services.default.echo", value, session="asked", to=client.manager))
        heard(client)
        arguments = {"config": {"workspace": "public", "permission": "admin"}, "context": ROOT_CONTEXT}
        client.send(
            client.frame("services.default.generate_token", arguments, session="asked", with_kwargs=True, to=client.manager)
        )
        assert "eyJ" not in str(heard(client))
    assert str(victim.server.generate_token({})).count(".") == 2


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
    heard(attacker)
    wait_for(lambda: victim.calls, 5, "the victim is called")
    assert all(user.startswith("anonymouz") for user in victim.calls), victim.calls
    victim.calls.clear()


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_the_names_of_services_are_no_patterns(stack: Stack, attacker: RawClient, victim: Victim) -> None:
    workspace = victim.id.partition("/")[0]
    patterns = [
        "?" * len(workspace) + "/*:*", f"{workspace[:-1]}?/victim:open", f"{workspace[:-1]}[a-z0-9]/*:open", "ws-*/x",
        "*a*a*a*b:x", "public/*:*a*", "{public,x}/y", f"{workspace}/vict*:open",
    ]  # fmt: skip
    end = manager(attacker)
    for pattern in patterns:
        for method in ("get_service", "get_service_info", "unregister_service", "list_services"):
            attacker.send(attacker.frame(f"services.default.{method}", pattern, session="asked", to=end))
        attacker.send(attacker.frame("services.default.list_services", {"workspace": pattern}, session="asked", to=end))
    for query in ({"workspace": "public", "type": "*["}, {"type": "?"}, {"visibility": "[a-z]*"}, {"x": "y"}):
        attacker.send(attacker.frame("services.default.list_services", query, session="asked", to=end))
    told = str(heard(attacker)).replace(str(patterns), "")
    assert told.count("asked.reject") == 5 * len(patterns) + 4, told
    assert "victim:closed" not in told
    for mode in ("exact", "first"):
        with pytest.raises(RuntimeError) as refused:
            attacker.call("services.default.get_service_info", f"{workspace}/*:*", {"mode": mode}, to=manager(attacker))
        assert "closed" not in str(refused.value) and "services:" not in str(refused.value)


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_a_client_offers_services_under_its_own_name_alone(attacker: RawClient) -> None:
    workspace = attacker.own_id.partition("/")[0]
    for id in ("other:s", f"{workspace}/other:s", "check-client-exists:s"):
        service = {"id": id, "name": "s", "type": "x", "config": {"visibility": "protected"}}
        with pytest.raises(RuntimeError, match="A client offers its own services"):
            attacker.call("services.default.register_service", service, to=manager(attacker))


@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_workspaces_that_are_not_ones_own_are_not_even_looked_at(stack: Stack, attacker: RawClient) -> None:
    before = str(attacker.call("services.default.list_workspaces", to=manager(attacker)))
    for name in ("ws-user-anonymouz-nobody", "ws-user-root", "x" * 100_000):
        for method, argument in (
            ("generate_token", {"workspace": name}),
            ("get_workspace_info", name),
            ("get_service_type", f"{name}/t"),
        ):
            with pytest.raises(RuntimeError, match=r"Permission denied|not yours"):
                attacker.call(f"services.default.{method}", argument, to=manager(attacker))
    assert str(attacker.call("services.default.list_workspaces", to=manager(attacker))) == before


@pytest.mark.parametrize(
    "first", ["[]", "5", "null", '"x"', "{}", '{"x": 1}', "[" * 5000, "x" * 100_000, '{"client_id": "a", "workspace": "public"}',
              '{"client_id": "a", "workspace": "ws-user-root"}', '{"client_id": "a b"}', b"\x80"],
    ids=lambda first: str(first)[:30],
)  # fmt: skip
@pytest.mark.parametrize("generation", ["hypha-rpc"])
def test_a_first_message_that_is_none_is_told_so_and_leaves_no_traceback(
    stack: Stack, attacker: RawClient, first: str | bytes
) -> None:
    before = len(stack.log)
    with connect(f"ws://127.0.0.1:{stack.port}/ws", compression=None) as socket:
        socket.send(first)
        told = json.loads(socket.recv(10))
        assert told["type"] == "error" and (
            "not valid on this server" in told["message"] or "Permission denied" in told["message"]
        )
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
    assert "Traceback" not in stack.log[before:]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_one_message_keeps_nobody_waiting(attacker: RawClient, victim: Victim) -> None:
    """Of very many small values: each would take the libraries some 30 microseconds."""
    import time

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
    import psutil

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
