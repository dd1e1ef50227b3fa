"""A Triton of our own that cannot be started for a while, such as where the disk is full."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.errors import StackError, UnsafeFolder
from bioengine_server.settings import Settings
from bioengine_server.triton import process as process_module
from bioengine_server.triton.plain_names import PlainNames
from bioengine_server.triton.process import TritonProcess


async def test_a_triton_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(process_module, "_end_children", lambda process: None)
    started = asyncio.Event()
    told: list[str] = []
    failures: list[Exception] = [OSError(28, "No space left on device"), UnsafeFolder(tmp_path, "is not a folder")]

    class Fake:
        def poll(self) -> int | None:
            return None

    def begun(self: TritonProcess) -> Any:
        if failures and isinstance(failures[0], OSError):
            raise failures.pop(0)
        assert not failures, "nothing is started in a folder of somebody else"
        started.set()
        return Fake()

    def clean(self: TritonProcess) -> None:
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(TritonProcess, "_begun", begun)
    monkeypatch.setattr(TritonProcess, "_clean", clean)
    settings = Settings(home=tmp_path, run_dir=tmp_path / "run")
    triton = TritonProcess(settings, "x" * 32, PlainNames(tmp_path / "names"), told.append)
    keeping = asyncio.create_task(triton._keep_running())
    try:
        async with asyncio.timeout(5):
            await started.wait()
    finally:
        keeping.cancel()
    assert told == ["Triton cannot be started"] * 2


async def test_what_keeps_it_from_being_started_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(Settings, "triton_sockets", tmp_path / "file" / "sockets")
    settings = Settings(home=tmp_path, run_dir=tmp_path / "run")
    with pytest.raises(StackError, match="cannot be made: File exists"):
        TritonProcess(settings, "x" * 32, PlainNames(tmp_path / "names"), print).start()
