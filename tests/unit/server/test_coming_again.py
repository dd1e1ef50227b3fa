"""Which connection of an imjoy-rpc client a new one replaces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bioengine_server.foreign import hypha as border
from bioengine_server.gateway import clients as gateway_clients
from bioengine_server.gateway.clients import Client, Clients, end_of_last
from bioengine_server.gateway.errors import ClientIdTaken
from bioengine_server.gateway.route import _is_bound
from hypha.core.auth import parse_scope

from tests.unit.server.legacy import Connection


@pytest.mark.parametrize(
    ("scope", "bound"),
    [
        ("ws:ws-x#a cid:host wid:ws-x", True), ("ws:ws-x#a wid:ws-x", False), ("ws:ws-x#a cid:guest wid:ws-x", False),
        ("ws:ws-x#a ws:ws-y#a cid:host wid:ws-y", False), ("ws:ws-x#a cid:host", False),
    ],
)  # fmt: skip
def test_a_token_is_for_one_client_to_come_again(scope: str, bound: bool) -> None:
    assert _is_bound(parse_scope(scope), "ws-x", "host") is bound
    assert not _is_bound(None, "ws-x", "host")


async def test_the_token_for_coming_again_names_its_client() -> None:
    connection = Connection()
    info = await (await connection.manager()).get_connection_info()
    await connection.end_all()
    user = border.parse_token(info["reconnection_token"])
    assert user.id == "ada" and _is_bound(user.scope, "ws-x", "client")


@pytest.mark.parametrize(("user", "is_new", "comes"), [("ada", False, True), ("guest", False, False), ("ada", True, False)])
async def test_who_comes_in_the_place_of_a_client_that_answers(user: str, is_new: bool, comes: bool) -> None:
    async def answers() -> bool:
        return True

    clients = Clients(lambda workspace, client_id: False)
    host = Client("ws-x", "host", "ada", is_new=True)
    await clients.enter(host)
    host.answers = answers
    second = Client("ws-x", "host", user, is_new)
    entering = asyncio.ensure_future(clients.enter(second))
    ends: set[asyncio.Future[Any]] = {entering, host.replaced_by}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    assert host.replaced_by.done() is comes
    if comes:
        clients.leave(host)
        await entering
    else:
        with pytest.raises(ClientIdTaken):
            await entering


async def test_of_two_programs_that_start_together_the_first_stays() -> None:
    """It cannot be asked yet when the second one comes."""

    async def answers() -> bool:
        return True

    clients = Clients(lambda workspace, client_id: False)
    first, second = Client("ws-x", "host", "ada", is_new=True), Client("ws-x", "host", "ada", is_new=True)
    await clients.enter(first)
    entering = asyncio.ensure_future(clients.enter(second))
    await asyncio.sleep(0.05)
    first.answers = answers
    with pytest.raises(ClientIdTaken):
        await entering
    assert not first.replaced_by.done()


async def test_who_ends_before_it_can_be_asked_makes_room() -> None:
    clients = Clients(lambda workspace, client_id: False)
    first, second = Client("ws-x", "host", "ada", is_new=True), Client("ws-x", "host", "ada", is_new=True)
    await clients.enter(first)
    entering = asyncio.ensure_future(clients.enter(second))
    await asyncio.sleep(0.05)
    clients.leave(first)
    await asyncio.wait_for(entering, 2)


async def test_a_connection_does_not_wait_for_one_that_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newer one has its name too late, for example because the older one took long to leave Hypha."""
    monkeypatch.setattr(gateway_clients, "_FAREWELL", 0.05)
    clients = Clients(lambda workspace, client_id: False)
    older, newer = Client("ws-x", "host", "ada", is_new=True), Client("ws-x", "host", "ada", is_new=False)
    await clients.enter(older)
    with pytest.raises(ClientIdTaken):
        await clients.enter(newer)
    clients.leave(older)
    await asyncio.wait_for(end_of_last(older), 1)
