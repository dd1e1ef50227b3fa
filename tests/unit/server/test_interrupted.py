"""Imports and downloads that end in the middle, and packages whose folders somebody has deleted by hand."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_contract.manifest import Manifest
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.removal import remove
from bioengine_server.commands import models as commands
from bioengine_server.settings import Settings
from bioengine_server.store import layout
from bioengine_server.store.errors import NotAPackage, StoreError, StoreNotWritable
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.pull import _to_its_end
from bioengine_server.store.service import StoreService

ID = "conscientious-seashell"


def test_an_import_that_ends_while_it_deletes_the_one_before_loses_neither(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "models")
    stored = store.import_package(packages / ID)

    def interrupted(path: Path, *_: Any, remove: Any = remove) -> bool:
        there = (path / "model.json").exists()
        remove(path)
        if there:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patched:
        patched.setattr(layout, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.import_package(packages / ID)
    assert store.find(ID).folder == stored.folder and (stored.folder / "rdf.yaml").exists()


def test_what_cannot_take_its_place_leaves_what_was_there(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "models")
    stored = store.import_package(packages / ID)

    def failing(source: Path, target: Path, rename: Any = os.rename) -> None:
        if target == stored.folder and (source / "new").exists():
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    folder = tmp_path / "models" / "incoming"
    folder.mkdir()
    (folder / "new").touch()
    with pytest.raises(OSError, match="Input/output"):
        layout.put(store.folder, folder, stored.folder)
    assert (store.find(ID).folder / "rdf.yaml").exists()


def test_a_package_whose_folder_was_deleted_by_hand_is_said_to_be_and_imported_again(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    stored = store.import_package(packages / ID)
    shutil.rmtree(stored.folder)
    with pytest.raises(PackageUnreadable, match=r"No such file.*models import"):
        store.find(ID)
    store.import_package(packages / ID)
    (stored.folder / "model.json").write_text("{")
    with pytest.raises(PackageUnreadable, match="not valid"):
        store.find(ID)
    shutil.copytree(packages / ID, tmp_path / "other")
    store.import_package(tmp_path / "other", "other")
    assert [model.manifest.id for model in store.models()] == ["other"], "one that cannot be read hides no others"
    with store.incoming("a collection") as folder:
        shutil.copytree(packages / ID, folder, dirs_exist_ok=True)
        store.adopt(folder, "https://example.org/rdf.yaml", ID, frozenset())
    assert store.find(ID).manifest.id == ID


async def test_a_download_that_is_stopped_does_not_empty_what_is_being_stored(packages: Path, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def measure(manifest: Manifest, folder: Path) -> Manifest:
        begun.set()
        assert go_on.wait(10)
        assert (folder / "rdf.yaml").exists()
        return manifest

    store = ModelStore(tmp_path / "models", measure=measure)

    async def pull() -> None:
        with store.incoming("a collection") as folder:
            shutil.copytree(packages / ID, folder, dirs_exist_ok=True)
            await _to_its_end(store.adopt, folder, "https://example.org/rdf.yaml", ID, frozenset())

    task = asyncio.create_task(pull())
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0.1)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (store.find(ID).folder / "rdf.yaml").exists()


def test_a_name_that_is_too_long_is_the_packages_fault_and_not_the_stores(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    with pytest.raises(NotAPackage, match="longer than the file system takes"), store.incoming("a collection") as folder:
        (folder / ("a" * 300)).touch()
    with pytest.raises(NotAPackage, match="longer than the file system takes"):
        store.import_package(tmp_path / ("a" * 300))


def test_an_export_of_old_files_and_to_where_nothing_can_be(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    model = store.import_package(packages / ID)
    for file in model.folder.iterdir():
        os.utime(file, (0, 0))  # as in images that are built the same each time, or on a machine without a clock
    store.export(model, tmp_path / "a.zip")
    assert zipfile.is_zipfile(tmp_path / "a.zip")
    with pytest.raises(StoreError, match="could not be written: File name too long"):
        store.export(model, tmp_path / ("a" * 300))


def test_versions_whose_folders_were_deleted_by_hand_are_removed(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    first = store.import_package(packages / ID)
    folder = tmp_path / "newer"
    shutil.copytree(packages / ID, folder)
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    (folder / "rdf.yaml").write_text(yaml.safe_dump({**rdf, "version": "9.9.9"}, sort_keys=False))
    newer = store.import_package(folder, replace=True)
    shutil.rmtree(first.folder)
    assert store.remove(newer.place) == [newer.place] and store.remove(ID) == [first.place]


def test_standard_input_is_written_where_an_interrupted_import_is_removed(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "a new" / "home" / "models")
    archive = Path(shutil.make_archive(str(tmp_path / "package"), "zip", packages / ID))
    with open(archive, "rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
        with commands._package_file(Path("-"), store) as source:
            assert source.is_relative_to(store.folder) and source.parent.name.startswith(layout.INCOMING)
            store.import_package(source)
    assert store.contains(ID) and not list(store.folder.glob(f"{layout.INCOMING}*"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StoreNotWritable, match="No space left"), commands._package_file(Path("-"), store):
        pass


async def test_a_download_onto_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreNotWritable, match="No locks available"):
        async with StoreService(Settings(home=tmp_path))._alone(ID):
            pass
