"""What a caller's function is told, and what it cannot do to the request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.dispatch.progress import Progress


async def test_events_come_in_order_before_the_end() -> None:
    told: list[dict[str, Any]] = []

    async def slow(event: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        told.append(event)

    async with Progress(slow) as steps:
        steps.tell("queued", position=2)
        steps.tell("queued", position=2)
        steps.tell("loading")
        steps.tell("running")
    assert told == [{"state": "queued", "position": 2}, {"state": "loading"}, {"state": "running"}]


async def test_a_function_that_fails_is_not_called_again() -> None:
    calls: list[str] = []

    def fail(event: dict[str, Any]) -> None:
        calls.append(event["state"])
        raise ValueError("no")

    async with Progress(fail) as steps:
        steps.tell("loading")
        steps.tell("running")
    assert calls == ["loading"]


async def test_the_result_does_not_wait_long_for_a_function_that_hangs() -> None:
    async def hang(event: dict[str, Any]) -> None:
        await asyncio.sleep(3600)

    async with asyncio.timeout(30), Progress(hang) as steps:
        steps.tell("running")


async def test_none_is_nobody_and_anything_else_is_refused() -> None:
    async with Progress(None) as steps:
        steps.tell("running")
        assert not steps.wanted
    with pytest.raises(RefusedArgument, match=r"progress.*expected a function, got int"):
        Progress(5)
