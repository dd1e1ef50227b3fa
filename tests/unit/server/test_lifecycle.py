"""Work beside what a process does in the first place."""

from __future__ import annotations

import asyncio

import pytest
from bioengine_server import lifecycle
from bioengine_server.lifecycle import background


async def test_work_in_the_background_that_fails_is_told_and_begun_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lifecycle, "_BACKGROUND_PAUSE", 0.0)
    going_on = asyncio.Event()
    begun: list[str] = []

    async def work() -> None:
        begun.append("")
        if len(begun) < 3:
            raise OSError("too many open files")
        going_on.set()
        await asyncio.sleep(60)

    async with background(work):
        async with asyncio.timeout(5):
            await going_on.wait()
    assert len(begun) == 3
    assert caplog.text.count("Work in the background failed") == 2 and "too many open files" in caplog.text


async def test_work_in_the_background_that_has_ended_stays_ended() -> None:
    begun: list[str] = []

    async def work() -> None:
        begun.append("")

    async with background(work):
        await asyncio.sleep(0.05)
    assert len(begun) == 1
