"""Two honest clients can use each other's services, in spite of all checks of their messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from hypha_rpc import connect_to_server

from tests.stack.harness import Stack, get, wait_for


@pytest.fixture(scope="module")
def hypha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Hypha alone: what clients do with each other needs no Triton."""
    home = tmp_path_factory.mktemp("honest") / "home"
    with Stack(home, "--workers-only", wait=False) as running:
        wait_for(lambda: get(f"{running.url}/health/liveness")[0] == 200, 60, "alive")
        yield running


class Offered:
    """What one of them offers."""

    def __init__(self) -> None:
        self.kept: Any = None

    async def count(self, most: int) -> AsyncIterator[int]:
        for number in range(most):
            yield number

    async def call_back(self, function: Any, times: int) -> list[Any]:
        return [await function(number) for number in range(times)]

    async def keep(self, interface: Any) -> str:
        self.kept = interface
        return "kept"

    async def use(self, value: Any) -> Any:
        return await self.kept.double(value)

    def service(self) -> dict[str, Any]:
        return {
            "id": "offered",
            "config": {"visibility": "public"},
            "count": self.count,
            "call_back": self.call_back,
            "keep": self.keep,
            "use": self.use,
            "nested": {"twice": lambda value: value * 2},
            "fail": self.fail,
        }

    def fail(self) -> None:
        raise ValueError("it failed on purpose")


@pytest.fixture
async def pair(hypha: Stack) -> AsyncIterator[Any]:
    offering = await connect_to_server({"server_url": hypha.url, "client_id": "offering", "method_timeout": 30})
    using = await connect_to_server({"server_url": hypha.url, "client_id": "using", "method_timeout": 30})
    info = await offering.register_service(Offered().service())
    service = await using.get_service(f"{offering.config['workspace']}/offering:offered")
    assert info["id"].endswith("offering:offered")
    yield service
    await using.disconnect()
    await offering.disconnect()


async def test_generators(pair: Any) -> None:
    assert [number async for number in await pair.count(5)] == [0, 1, 2, 3, 4]


async def test_functions_of_the_callers_own(pair: Any) -> None:
    assert await pair.call_back(lambda number: number * 10, 3) == [0, 10, 20]


async def test_an_interface_that_is_called_later(pair: Any) -> None:
    assert await pair.keep({"_rintf": True, "double": lambda value: value * 2}) == "kept"
    assert await pair.use(21) == 42


async def test_nested_functions_and_errors(pair: Any) -> None:
    assert await pair.nested.twice("ab") == "abab"
    with pytest.raises(Exception, match="it failed on purpose"):
        await pair.fail()


@pytest.mark.parametrize("megabytes", [1, 64])
async def test_arrays_in_chunks(pair: Any, megabytes: int) -> None:
    """Put together and checked on their way, there and back."""
    array = np.random.default_rng(0).integers(0, 255, (megabytes, 1000, 1000), np.uint8)
    back = await pair.nested.twice(array)
    np.testing.assert_array_equal(back, array * 2)


async def test_values_of_all_kinds(hypha: Stack) -> None:
    server = await connect_to_server({"server_url": hypha.url, "method_timeout": 30})
    values: list[Any] = [
        None,
        True,
        1,
        -(2**40),
        2.5,
        "text µ",
        b"bytes",
        [1, [2]],
        {"a": {"b": []}},
        {1, 2},
        np.arange(6).reshape(2, 3),
    ]
    for value in values:
        np.testing.assert_equal(await server.echo(value), value)
    await server.disconnect()
