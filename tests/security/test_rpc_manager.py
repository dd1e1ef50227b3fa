"""What a client can try with Hypha's manager, and with the names of services and workspaces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.security.attacker import (
    ROOT_CONTEXT,
    attacker,
    heard,
    manager,
    nothing_has_happened,
    victim,
)
from tests.security.victim import Victim
from tests.stack.harness import Stack
from tests.stack.raw import GENERATIONS, RawClient
from tests.tiers import cases

__all__ = ["attacker", "nothing_has_happened", "victim"]


@pytest.mark.parametrize("generation", ["hypha-rpc"])
@pytest.mark.parametrize(
    "changes",
    cases([
        {"type": "x:public/bioengine:triton-client@*"}, {"type": "triton-client:public/bioengine"}, {"type": "a*"},
        {"type": "a|b"}, {"id": "public/attacker:triton-client"}, {"id": "public/bioengine:triton-client"},
        {"app_id": "*:public/x:triton-client@"},
        {"app_id": "a@b"}, {"id": "attacker:triton-client@x:public/bioengine:triton-client"}, {"id": "attacker:*"},
        {"config": {"visibility": "public", "workspace": "public"}}, {},
    ], core=[{"id": "public/bioengine:triton-client"}, {}]),
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
    cases([
        "log_event", "get_event_stats", "get_events", "set_env", "get_env", "search_services", "register_service_type",
        "revoke_token",
        "list_service_types", "parse_token", "delete_workspace", "bookmark", "unbookmark", "cleanup", "check_status",
    ], core=["set_env", "delete_workspace"]),
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
@pytest.mark.parametrize(
    "id",
    cases(
        ["triton-client", "public/triton-client", "public/bioengine:triton-client", "~", "VICTIM:open"],
        core=["triton-client", "VICTIM:open"],
    ),
)
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
        told = str(refused.value).replace(workspace, "")  # which has any words in its name
        assert "closed" not in told and "services:" not in told


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
