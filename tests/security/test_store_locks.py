"""The store's locks are out of the reach of models, which can read the store: a lock needs no more than an open file."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from bioengine_contract.store import read_aliases
from bioengine_server.settings import Settings
from bioengine_server.store import layout
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.service import StoreService

from tests.mirror import Mirror


@contextmanager
def all_locked(folder: Path) -> Iterator[int]:
    """What a model could do: open all that it can read in the store, and lock it. Gives the number of locks."""
    with ExitStack() as stack:
        paths = [folder, *folder.rglob("*")]
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield len(paths)


def test_who_reads_the_store_cannot_hold_it(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_PATIENCE", 5)
    store = ModelStore(tmp_path / "models")
    store.import_package(packages / "old-otter")
    (store.folder / ".lock").touch()  # of an older version
    (store.folder / ".incoming-0123.lock").touch()
    with store.incoming("a download") as folder, all_locked(store.folder) as count:
        assert count > 5
        started = time.monotonic()
        store.import_package(packages / "old-otter", id="another")
        assert len(store.remove("another")) == 1
        assert time.monotonic() - started < 4
        assert folder.is_dir(), "what is under way stays"
    assert not list(store.folder.glob(".incoming*"))
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o700
    assert layout.locks(store.folder) == tmp_path / "locks"


async def test_who_reads_the_store_cannot_hold_downloads(packages: Path, tmp_path: Path) -> None:
    with Mirror(packages) as mirror:
        names = {key.removeprefix("BIOENGINE_").lower(): value for key, value in mirror.environment.items()}
        service = StoreService(Settings(home=tmp_path, **names))
        await service.fetch("old-otter", None)
        with all_locked(tmp_path / "models"):
            await service.fetch("conscientious-seashell", None)
    assert {"old-otter", "conscientious-seashell"} <= set(read_aliases(tmp_path / "models"))
    assert all(path.parent == tmp_path / "locks" for path in tmp_path.rglob("download-*"))


def test_a_change_does_not_wait_for_ever(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_PATIENCE", 0.3)
    store = ModelStore(tmp_path / "models")
    with layout.lock(store.folder), pytest.raises(layout.StoreBusy, match="so nothing was changed") as refusal:
        store.import_package(packages / "old-otter")
    assert f"fuser {tmp_path}/locks/store" in str(refusal.value)
    assert store.import_package(packages / "old-otter").manifest.id == "old-otter"
    assert not list(store.folder.glob(".incoming*"))
