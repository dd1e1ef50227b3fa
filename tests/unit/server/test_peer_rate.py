"""The limit of requests a second of one address."""

from __future__ import annotations

import time

import httpx
import pytest
from bioengine_server.access.caller import Caller
from bioengine_server.access.refusals import Refusals
from bioengine_server.http import peer_rate
from bioengine_server.http.peer_rate import PeerRate
from starlette.responses import PlainTextResponse


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


async def statuses(limited: PeerRate, count: int, peer: str = "10.0.0.1", path: str = "/") -> list[int]:
    transport = httpx.ASGITransport(limited, client=(peer, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://bioengine") as client:
        return [(await client.get(path)).status_code for _ in range(count)]


async def test_one_address_is_slowed_down_and_no_other(clock: list[float]) -> None:
    limited = PeerRate(PlainTextResponse("ok"), limit=2, refusals=Refusals())
    assert await statuses(limited, 12) == [200] * 10 + [429] * 2
    assert await statuses(limited, 1, "10.0.0.2") == [200]
    assert await statuses(limited, 1, path="/health/readiness") == [200]
    clock[0] += 1.5
    assert await statuses(limited, 4) == [200] * 3 + [429]
    # Addresses that one client chooses for itself count as one.
    assert await statuses(limited, 10, "2001:db8::1") == [200] * 10
    assert await statuses(limited, 1, "2001:db8::2") == [429]


async def test_the_refusal_is_in_the_form_of_all_errors() -> None:
    told: list[tuple[str, Caller]] = []
    refusals = Refusals()
    refusals.listen(lambda error, caller, model: told.append((getattr(error, "code", ""), caller)))
    limited = PeerRate(PlainTextResponse("ok"), limit=1, refusals=refusals)
    transport = httpx.ASGITransport(limited, client=("10.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://bioengine") as client:
        answer = [await client.get("/") for _ in range(10)][-1]
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    body = answer.json()
    assert body["success"] is False and "more than 1 requests per second" in body["error"]
    assert "BIOENGINE_PEER_REQUESTS" in body["error"]
    assert told[0][0] == "too_many_requests_per_second" and len(told) == 5, "whoever counts and logs requests knows of it"


async def test_there_is_none_by_default() -> None:
    assert await statuses(PeerRate(PlainTextResponse("ok"), limit=0, refusals=Refusals()), 300) == [200] * 300


async def test_no_more_addresses_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_rate, "_MAX_PEERS", 3)
    limited = PeerRate(PlainTextResponse("ok"), limit=1, refusals=Refusals())
    for number in range(9):
        await statuses(limited, 1, f"10.0.0.{number}")
    assert list(limited._buckets) == ["10.0.0.6", "10.0.0.7", "10.0.0.8"]
