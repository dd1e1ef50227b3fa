"""What an anonymous client can find out within Hypha: nothing about other clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypha_rpc.sync import connect_to_server

from tests.stack.harness import Stack
from tests.stack.raw import RawClient


@pytest.fixture(scope="module")
def alice(stack: Stack) -> Iterator[Any]:
    """A client who offers a service to everybody, and one to herself."""
    server = connect_to_server({"server_url": stack.url, "client_id": "alice"})
    for id, visibility in (("hers", "public"), ("private", "protected")):
        server.register_service({"id": id, "config": {"visibility": visibility}, "call": lambda: "hers"})
    yield server
    server.disconnect()


@pytest.fixture(scope="module")
def bob(stack: Stack) -> Iterator[Any]:
    server = connect_to_server({"server_url": stack.url, "client_id": "bob"})
    yield server
    server.disconnect()


QUERIES = [
    None, "*", "public", "*/*:*", "*/alice:*", "*/hers", "hers", "alice:hers", "public/*:*", {"workspace": "*"},
    {"workspace": "*", "visibility": "public"}, {"workspace": "*", "client_id": "alice"}, {"workspace": "ws-*"},
    {"workspace": "ws-user-*", "service_id": "hers"}, {"workspace": "ws-user-anonymouz-*"}, {"id": "hers", "workspace": "*"},
    "ws-*", "ws-user-*/*:*", "ws-user-*/hers", {"type": "*", "workspace": "w*"}, {"workspace": ["*"]}, {"workspace": None},
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_services_are_listed_of_ones_own_workspace_and_the_public_one(stack: Stack, alice: Any, bob: Any, query: Any) -> None:
    others = alice.config["workspace"].removeprefix("ws-user-")
    given = query
    try:
        found = str(bob.list_services(given) if given is not None else bob.list_services())
    except Exception as error:
        found = str(error)
    assert others not in found and "alice" not in found.replace(str(query), "")
    with RawClient(stack, "imjoy-rpc") as raw:
        try:
            found = str(raw.call("services.default.list_services", query))
        except RuntimeError as error:
            found = str(error)
    assert others not in found


def test_what_a_client_may_list_is_there(alice: Any, bob: Any) -> None:
    for query in ("public", "*", {"workspace": "*"}):
        assert any(service["id"] == "public/bioengine:triton-client" for service in bob.list_services(query))
    assert {"hers", "private"} <= {service["id"].split(":")[-1] for service in alice.list_services()}
    with pytest.raises(Exception, match="You can list the services of your own workspace and of 'public'"):
        bob.list_services(alice.config["workspace"])


def test_a_service_of_somebody_else_is_found_by_who_knows_its_whole_id(alice: Any, bob: Any) -> None:
    workspace = alice.config["workspace"]
    assert bob.get_service(f"{workspace}/alice:hers").call() == "hers"
    for id in (
        f"{workspace}/alice:private",
        "*/alice:hers",
        "*/*:hers",
        "ws-user-*/*:hers",
        f"{workspace[:-4]}*/alice:hers",
        "hers",
    ):
        with pytest.raises(Exception, match=r"not found|Permission denied"):
            bob.get_service(id)


def test_nobody_lists_workspaces_clients_or_users(alice: Any, bob: Any) -> None:
    workspace = alice.config["workspace"]
    assert [found["id"] for found in bob.list_workspaces()] == [bob.config["workspace"]]
    assert workspace not in str(bob.list_clients()) + str(bob.get_summary())
    for call in (
        lambda: bob.list_clients(workspace),
        lambda: bob.list_clients("public"),
        lambda: bob.list_clients("*"),
        lambda: bob.get_workspace_info(workspace),
        lambda: bob.delete_workspace(workspace),
        lambda: bob.cleanup(workspace),
        lambda: bob.create_workspace({"id": "a-workspace"}),
        lambda: bob.generate_token({"workspace": workspace}),
        lambda: bob.generate_token({"workspace": "public"}),
        lambda: connect_to_server({"server_url": bob.config["public_base_url"], "workspace": workspace}),
    ):
        with pytest.raises(Exception, match=r"(?i)permission|not yours|only registered"):
            call()
    assert "Permission denied" in str(bob.ping(f"{workspace}/alice"))


@pytest.mark.parametrize("id", ["queue", "artifact-manager", "s3-storage", "server-apps", "admin-utils", "triton-proxy", "ws"])
def test_other_services_of_hypha_are_closed(bob: Any, id: str) -> None:
    with pytest.raises(Exception, match=r"not found|Permission denied"):
        bob.get_service(f"public/{id}")


def test_public_are_the_service_and_the_login_alone(bob: Any) -> None:
    """`built-in` is what every client of hypha-rpc has, for messages in chunks."""
    assert {service["id"].split(":")[-1] for service in bob.list_services("public")} == {
        "triton-client", "hypha-login", "built-in",
    }  # fmt: skip


GRANTS = [
    {"extra_scopes": ["ws:*#a"]}, {"extra_scopes": ["ws:public#a", "wid:public"]}, {"extra_scopes": ["wid:ws-user-root"]},
    {"client_id": "x ws:*#a wid:public"}, {"client_id": "x\tws:public#a"}, {"client_id": "x#a"}, {"client_id": "x:y"},
]  # fmt: skip


@pytest.mark.parametrize("grant", GRANTS, ids=str)
def test_nobody_gives_itself_more_than_it_has(stack: Stack, bob: Any, grant: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="A token names one workspace and one client"):
        bob.generate_token(grant)
    with RawClient(stack, "imjoy-rpc") as raw, pytest.raises(RuntimeError, match="A token names one workspace and one client"):
        raw.call("services.default.generate_token", grant)


@pytest.mark.parametrize("names", [{"client_id": "q ws:public#a"}, {"client_id": "a/b"}, {"workspace": "x wid:public"}], ids=str)
def test_names_that_say_more_than_a_name_are_refused_at_the_door(stack: Stack, names: dict[str, str]) -> None:
    with pytest.raises(Exception, match="not valid on this server"):
        connect_to_server({"server_url": stack.url, **names})


def test_nobody_makes_a_workspace(bob: Any) -> None:
    """Such as that of a token whose holder has not come yet: its maker would be there before the holder."""
    with pytest.raises(Exception, match="Clients cannot create workspaces here"):
        bob.create_workspace({"id": "ws-user-token-carol"})


def test_a_token_of_a_client_leads_to_its_own_workspace_only(stack: Stack, bob: Any) -> None:
    token = bob.generate_token({"permission": "admin"})
    again = connect_to_server({"server_url": stack.url, "token": token})
    assert again.config["workspace"] == bob.config["workspace"]
    for other in ("public", "ws-user-root"):
        with pytest.raises(Exception, match="does not match the specified workspace"):
            connect_to_server({"server_url": stack.url, "token": token, "workspace": other})
    again.disconnect()
