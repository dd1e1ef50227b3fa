"""What the gateway remembers of an imjoy-rpc client is bounded."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from bioengine_server.gateway.newest import Newest
from bioengine_server.hypha.message_memory import kept_size

from tests.unit.server.legacy import Connection


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = Connection()
    yield connection
    await connection.end_all()


def service(id: str, **values: Any) -> dict[str, Any]:
    return {"id": id, "name": id, "config": {"visibility": "protected"}, "call": lambda: id, **values}


@pytest.mark.parametrize(
    "value", [b"x" * 400_000, "x" * 400_000, [[] for _ in range(19_000)], {"x" * 400_000: 1}, [{"a": ["x" * 400_000]}]],
    ids=["bytes", "text", "empty lists", "a name", "within"],
)  # fmt: skip
async def test_what_is_kept_of_a_service_is_bounded(connection: Connection, value: Any) -> None:
    manager = await connection.manager()
    with pytest.raises(Exception, match=r"The service 'large' has [\d,]+ characters .* at most 300,000 are allowed"):
        await manager.register_service(service("large", blob=value))
    assert connection.hypha.services == {}
    await manager.register_service(service("small", blob=b"x" * 200_000))
    assert list(connection.hypha.services) == ["small"]


async def test_what_is_kept_of_all_services_of_a_client_is_bounded(connection: Connection) -> None:
    manager = await connection.manager()
    for number in range(10):
        await manager.register_service(service(f"s{number}", blob=b"x" * 290_000))
    with pytest.raises(Exception, match=r"services of this client have [\d,]+ characters together"):
        for number in range(10, 12):
            await manager.register_service(service(f"s{number}", blob=b"x" * 290_000))
    await manager.unregister_service("s0")
    await manager.register_service(service("s1", blob=b"y" * 290_000))  # in place of itself
    await manager.register_service(service("s12", blob=b"x" * 100_000))


async def test_services_that_are_registered_at_once_are_bounded_too(connection: Connection) -> None:
    manager, register = await connection.manager(), connection.hypha.register_service

    async def slowly(service: Any, options: Any) -> Any:
        await asyncio.sleep(0.3)
        return await register(service, options)

    connection.hypha.register_service = slowly  # type: ignore[method-assign]
    offers = [manager.register_service(service(f"s{number}", blob=b"x" * 290_000)) for number in range(15)]
    outcomes = await asyncio.gather(*offers, return_exceptions=True)
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 5
    assert len(connection.hypha.services) == 10
    connection.hypha.refuses = True
    await manager.unregister_service("s0")
    for _ in range(3):  # what is refused is not counted
        with pytest.raises(Exception, match=r"refused"):
            await manager.register_service(service("refused", blob=b"x" * 200_000))


async def test_nothing_is_kept_of_a_service_that_hypha_refuses(connection: Connection) -> None:
    manager = await connection.manager()
    connection.hypha.refuses = True
    with pytest.raises(Exception, match="refused"):
        await manager.register_service(service("refused"))
    assert connection.hypha.services == {}


async def test_services_that_come_and_go_leave_nothing(connection: Connection) -> None:
    manager = await connection.manager()
    first = await manager.get_service("s0")
    for number in range(1, 260):
        await manager.get_service(f"s{number}")
    kept = [id for id in connection.end._services if id.startswith("remote-")]
    assert len(kept) == 200
    assert "remote-" + base64.urlsafe_b64encode(b"s0").decode().rstrip("=") not in kept
    assert await first.call() == "s0", "it is looked for again"
    own = connection.session._own_services
    for number in range(1100):
        await own.withdraw(f"s{number}")
    assert len(own._withdrawn) == 1000


def test_the_newest_are_kept() -> None:
    newest = Newest(3, 100)
    assert [newest.keep(name, 10) for name in "abcd"] == [[], [], [], ["a"]]
    assert newest.keep("b", 10) == [] and newest.keep("e", 10) == ["c"]
    assert newest.keep("large", 500) == ["d", "b", "e"]
    assert newest.keep("small", 1) == ["large"]


def test_all_that_takes_memory_counts() -> None:
    assert kept_size({"a" * 100: None}) >= 100
    assert kept_size([[] for _ in range(1000)]) >= 10_000
    assert kept_size([np.zeros(1000, np.float32), b"x" * 1000, "x" * 1000]) >= 6000
