"""The folders and files of the model store, and its locks.

    <home>/models/<id>/<version>/       an unpacked package, with its model.json
    <home>/models/aliases.json          maps every name of a package to its folder `<id>/<version>`
    <home>/models/.incoming-*           packages that are being imported; interrupted ones are removed at the next change
    <home>/models/usage.json            when each package was last used (bioengine_server.store.usage)
    <home>/locks/                       locks for changes of the store, for downloads, and for the .incoming folders in use

The locks are beside the store, not in it: models may read the store, and a process that can open a file can lock it.
`bioengine_contract.store` reads the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bioengine_contract.ids import is_storable_id
from bioengine_contract.manifest import FILE_NAME, Manifest
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.removal import remove
from bioengine_contract.store import ALIASES_FILE

from bioengine_server.private_folder import make_private
from bioengine_server.store.errors import BadId, StoreError
from bioengine_server.whole_file import whole_file

INCOMING = ".incoming-"
_PATIENCE = 60.0  # seconds that a change of the store waits for another one


class StoreBusy(StoreError):
    code = "store_busy"

    def __init__(self, store: Path, patience: float) -> None:
        super().__init__(
            f"Another process has been changing the model store {store} for more than {patience:.0f} s, so nothing was changed. "
            f"Try again when it has finished; `fuser {store.parent / 'locks' / 'store'}` shows its pid."
        )


def check_id(id: str) -> str:
    """Return `id` if a stored package may have it. Raises BadId."""
    if not is_storable_id(id):
        raise BadId(id)
    return id


def write_aliases(store: Path, aliases: dict[str, str]) -> None:
    write_json(store / ALIASES_FILE, dict(sorted(aliases.items())))


def write_json(path: Path, document: object) -> None:
    """Write a file atomically: completely or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())


def is_read_only(folder: Path) -> bool:
    """Whether a folder is on a file system that is mounted read-only."""
    return folder.exists() and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def locks(store: Path) -> Path:
    """The folder with the locks of a store."""
    folder = store.parent / "locks"
    make_private(folder)
    return folder


def try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def lock(store: Path) -> Iterator[None]:
    """Lock the store for a change. Raises StoreBusy if another process holds the lock for too long."""
    store.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _PATIENCE
    with open(locks(store) / "store", "w") as file:
        while not try_lock(file):
            if time.monotonic() > until:
                raise StoreBusy(store, _PATIENCE)
            time.sleep(0.05)
        yield


@contextlib.contextmanager
def held_folder(store: Path) -> Iterator[Path]:
    """A new folder in the store for an import. `sweep` does not remove it until this process releases it or dies."""
    folder = store / f"{INCOMING}{uuid.uuid4().hex[:12]}"
    hold = _hold(store, folder)
    with open(hold, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            folder.mkdir()
            yield folder
        finally:
            remove(folder)
            hold.unlink(missing_ok=True)


def put(store: Path, folder: Path, target: Path) -> None:
    """Move the package in `folder` to its place. What is there is deleted only then: whoever ends us loses neither of them."""
    target.parent.mkdir(exist_ok=True)
    with held_folder(store) as aside:
        try:
            if target.exists():
                os.rename(target, aside)
            os.rename(folder, target)
        except BaseException:
            if not target.exists() and any(aside.iterdir()):
                os.rename(aside, target)
            raise


def discard(store: Path, folder: Path) -> None:
    """Move a package aside, then delete it, so that a reader finds all of it or nothing."""
    if folder.exists():
        with held_folder(store) as aside:
            os.rename(folder, aside)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def imported(package: Path) -> int:
    """When a package came to its place; 0 where it is not there, because somebody has deleted it by hand."""
    try:
        return (package / FILE_NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def read_manifest(store: Path, place: str) -> Manifest:
    """The manifest of the package at `<id>/<version>`. Raises PackageUnreadable."""
    try:
        return Manifest.model_validate_json((store / place / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageUnreadable(place, getattr(error, "strerror", None) or f"its {FILE_NAME} is not valid") from error


def manifests(store: Path) -> list[Path]:
    """The manifests of all packages, sorted. Not by `Path.glob`, which fails where a folder goes while it looks."""
    return [store / file for file in sorted(glob.glob(f"*/*/{FILE_NAME}", root_dir=store))]


def sweep(store: Path) -> None:
    """Remove folders of interrupted imports. The caller holds the store's lock."""
    for folder in store.glob(f"{INCOMING}*"):
        if not folder.is_dir():  # a lock file of an older version
            folder.unlink(missing_ok=True)
            continue
        hold = _hold(store, folder)
        with open(hold, "w") as file:
            if try_lock(file):  # otherwise the process that uses it is alive
                remove(folder)
                hold.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Have a file under a second path; a copy of it on a file system without hard links. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _hold(store: Path, folder: Path) -> Path:
    """The lock of a folder for an import."""
    return locks(store) / folder.name.removeprefix(".")
