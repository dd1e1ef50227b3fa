"""Who needs a token, and how much each may ask for at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.access.errors import TokenNeeded, TokenRevoked, TooLarge, TooManyRequests
from bioengine_server.access.registry import Token, TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.network.peers import gateway
from bioengine_server.settings import Settings

ANONYMOUS = Caller("anonymouz-x", "ws-x", "client")
SERVER = Caller(OWN_USER, "public", "readiness-probe")
PROXIES = [
    "X-Forwarded-For", "x-forwarded-for", "Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Via",
    "Forwarded-For", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP", "X-Original-Forwarded-For", "X-Cluster-Client-IP",
]  # fmt: skip


def access(home: Path, **settings: Any) -> Access:
    return Access(Settings(home=home, **settings), TokenRegistry(home))


def caller_with(token: Token) -> Caller:
    return Caller(f"token-{token.name}", f"ws-user-token-{token.name}", "client", token=token.id)


@pytest.mark.parametrize(
    ("mode", "host", "all_need", "proxied_need"),
    [
        ("auto", "127.0.0.1", False, True),
        ("auto", "127.0.0.2", False, True),
        ("auto", "::1", False, True),
        ("auto", "localhost", False, True),
        ("auto", "0.0.0.0", True, True),
        ("auto", "::", True, True),
        ("auto", "", True, True),
        ("auto", "192.168.1.5", True, True),
        ("auto", "workstation.lab", True, True),
        ("open", "127.0.0.1", False, False),
        ("open", "0.0.0.0", False, False),
        ("token", "127.0.0.1", True, True),
        ("token", "0.0.0.0", True, True),
    ],
)
def test_who_needs_a_token(tmp_path: Path, mode: str, host: str, all_need: bool, proxied_need: bool) -> None:
    rules = access(tmp_path, access=mode, host=host)
    assert rules.all_need_token is all_need
    assert rules.needs_token(["Host", "User-Agent", "Origin"], "127.0.0.1") is all_need
    for header in PROXIES:
        assert rules.needs_token(["Host", header], "127.0.0.1") is proxied_need, header
    if all_need:
        with pytest.raises(TokenNeeded, match=r"needs a token: ask its admin.*token create NAME.*connect_to_server.*Bearer"):
            rules.check(ANONYMOUS)
    else:
        rules.check(ANONYMOUS)
    rules.check(SERVER)
    rules.check(caller_with(TokenRegistry(tmp_path).create("ada", 1)))


def test_who_is_refused_for_a_proxy_is_told_of_it(tmp_path: Path) -> None:
    registry = TokenRegistry(tmp_path)
    proxied = {"type": "http", "client": ("127.0.0.1", 5), "headers": [(b"via", b"1.1 lab")]}
    with pytest.raises(TokenNeeded, match=r"needs a token: .*came through a proxy, as its header Via shows\.$"):
        Authenticator(access(tmp_path), registry).admit(proxied, None)
    with pytest.raises(TokenNeeded) as caught:
        Authenticator(access(tmp_path, access="token"), registry).admit(proxied, None)
    assert "proxy" not in str(caught.value), "nobody would be let in without one there"


def test_an_access_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'auto', 'open' or 'token'"):
        Settings(access="everyone")  # type: ignore[arg-type]


async def test_requests_at_once_are_counted_for_each_token(tmp_path: Path) -> None:
    registry, rules = TokenRegistry(tmp_path), access(tmp_path, token_requests=3, anonymous_requests=2)
    ada, bob = caller_with(registry.create("ada", 1)), caller_with(registry.create("bob", 1, requests=1))
    async with contextlib.AsyncExitStack() as running:
        for caller, limit in ((ada, 3), (bob, 1), (ANONYMOUS, 2)):
            for number in range(limit):
                # Another connection is the same token, and another anonymous client one more of them.
                await running.enter_async_context(rules.request(Caller(caller.user, "ws", f"{number}", token=caller.token)))
        with pytest.raises(TooManyRequests, match=r"^The token 'ada' has 3 requests in progress.*more --requests"):
            await running.enter_async_context(rules.request(ada))
        with pytest.raises(TooManyRequests, match=r"^The token 'bob' has 1 request in progress"):
            await running.enter_async_context(rules.request(bob))
        with pytest.raises(TooManyRequests, match=r"Clients without a token have, together, 2 .*BIOENGINE_ANONYMOUS_REQUESTS"):
            await running.enter_async_context(rules.request(ANONYMOUS))
        await running.enter_async_context(rules.request(SERVER))
    for caller in (ada, bob, ANONYMOUS):
        async with rules.request(caller):
            pass
    assert not rules._under_way, "nobody is remembered who asks for nothing"


async def test_a_request_that_is_counted_where_it_begins_counts_once(tmp_path: Path) -> None:
    rules = access(tmp_path, anonymous_requests=1)
    async with rules.request(ANONYMOUS) as counted:
        async with rules.request(Caller.from_context(counted.to_context())):
            pass
        for context in (ANONYMOUS.to_context(), {**ANONYMOUS.to_context(), "counted": True}):
            with pytest.raises(TooManyRequests):
                async with rules.request(Caller.from_context(context)):
                    pass


async def test_a_request_that_fails_counts_no_more(tmp_path: Path) -> None:
    rules = access(tmp_path, anonymous_requests=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with rules.request(ANONYMOUS):
                raise ZeroDivisionError


async def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    rules = access(tmp_path)
    async with contextlib.AsyncExitStack() as running:
        for _ in range(1000):
            await running.enter_async_context(rules.request(ANONYMOUS))


def test_sizes(tmp_path: Path) -> None:
    registry = TokenRegistry(tmp_path)
    small, plain, vast = (
        caller_with(registry.create(name, 1, max_size=size))
        for name, size in (("small", 1000), ("plain", None), ("vast", 10**15))
    )
    usual = access(tmp_path, max_request_size=10_000)
    assert [usual.size_limit(caller).bytes for caller in (small, plain, vast, ANONYMOUS, SERVER)] == [1000, *[10_000] * 4]
    tight = access(tmp_path, max_request_size=10_000, anonymous_max_request_size=2000, token_max_request_size=3000)
    assert [tight.size_limit(caller).bytes for caller in (small, plain, vast, ANONYMOUS, SERVER)] == [
        1000, 3000, 10_000, 2000, 10_000,
    ]  # fmt: skip
    tight.check_size([np.zeros(500, np.uint8)], small)
    image = [np.zeros(5_000_000, np.uint8)]
    with pytest.raises(TooLarge, match=r"5 MB, but the token 'small' allows at most .*larger --max-size"):
        tight.check_size(image, small)
    with pytest.raises(TooLarge, match=r"clients without a token may send at most .*BIOENGINE_ANONYMOUS_MAX_REQUEST_SIZE"):
        tight.check_size(image, ANONYMOUS)
    with pytest.raises(TooLarge, match=r"this server takes at most .*BIOENGINE_MAX_REQUEST_SIZE"):
        tight.check_size(image, vast)


async def test_a_token_that_was_revoked_gets_nothing(tmp_path: Path) -> None:
    registry, rules = TokenRegistry(tmp_path), access(tmp_path)
    ada = caller_with(registry.create("ada", 1))
    registry.revoke("ada")
    with pytest.raises(TokenRevoked):
        rules.check(ada)
    with pytest.raises(TokenRevoked):
        rules.size_limit(ada)
    with pytest.raises(TokenRevoked):
        async with rules.request(ada):
            pass


async def test_where_another_door_has_looked_a_token_is_taken_as_it_comes(tmp_path: Path) -> None:
    rules = Access(Settings(home=tmp_path, access="token", token_requests=1), registry=None)
    known = Caller("token-ada", "ws", "client", token="12ab")
    assert rules.size_limit(known).bytes == Settings().max_request_size
    async with rules.request(known):
        with pytest.raises(TooManyRequests, match=r"A token has 1 request in progress"):
            async with rules.request(known):
                pass
    with pytest.raises(TokenNeeded):
        rules.check(ANONYMOUS)


@pytest.mark.parametrize(
    ("peer", "needs"),
    [
        ("127.0.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False), ("172.18.0.1", False), ("::ffff:172.18.0.1", False),
        ("172.19.0.3", True), ("::ffff:172.19.0.3", True), ("", True),
    ],
)  # fmt: skip
def test_in_a_container_only_the_machine_itself_needs_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, needs: bool
) -> None:
    """The machine is the container's gateway; others reach the address that is bound as well, such as the models."""
    monkeypatch.setattr("bioengine_server.access.rules.gateway", lambda: "172.18.0.1")
    for everywhere in ("0.0.0.0", "::"):
        assert access(tmp_path, listen=everywhere).needs_token([], peer) is needs
        assert access(tmp_path, listen=everywhere).needs_token_for_metrics([], peer) is needs
    assert access(tmp_path, listen="0.0.0.0", access="open").needs_token([], peer) is False
    assert access(tmp_path).needs_token([], peer) is False, "bound to loopback, nobody else gets there"


def test_gateway(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    routes.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth1\t000013AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eth0\t00000000\t010012AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    )
    assert gateway(routes) == "172.18.0.1"
    routes.write_text("Iface\tDestination\tGateway\n")
    assert gateway(routes) is None and gateway(tmp_path / "none") is None
