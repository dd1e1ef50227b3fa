"""Where things lie in the model store.

    <home>/models/<id>/<version>/       an unpacked package, with its model.json
    <home>/models/aliases.json          from every name of a package to its folder `<id>/<version>`
    <home>/models/.incoming-*           packages under way; removed by the next change when one was cut off
    <home>/models/usage.json            when each package was last used (bioengine_server.store.usage)
    <home>/locks/                       who changes the store, who downloads what, which packages under way are somebody's

The locks lie beside the store, not in it: models may read the store, and whoever can open a file can lock it.
How it is read stands in `bioengine_contract.store`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bioengine_contract.ids import is_storable_id
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
            f"Try again when it has ended; `fuser {store.parent / 'locks' / 'store'}` says which one it is."
        )


def check_id(id: str) -> str:
    """`id`, if a stored package may have it. Raises BadId."""
    if not is_storable_id(id):
        raise BadId(id)
    return id


def write_aliases(store: Path, aliases: dict[str, str]) -> None:
    write_json(store / ALIASES_FILE, dict(sorted(aliases.items())))


def write_json(path: Path, document: object) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())


def is_read_only(folder: Path) -> bool:
    """Whether a folder is on a file system that is mounted read-only."""
    return folder.exists() and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def locks(store: Path) -> Path:
    """The folder of the locks of a store."""
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
    """Hold the store for a change. Raises StoreBusy where another process holds it for too long."""
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
    """A new folder in the store for what is under way; `sweep` leaves it alone until this process gives it up or dies."""
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


def sweep(store: Path) -> None:
    """Remove what processes that died have left under way. Call it with the store's lock."""
    for folder in store.glob(f"{INCOMING}*"):
        if not folder.is_dir():  # a lock of an older version
            folder.unlink(missing_ok=True)
            continue
        hold = _hold(store, folder)
        with open(hold, "w") as file:
            if try_lock(file):  # else its process lives
                remove(folder)
                hold.unlink(missing_ok=True)


def _hold(store: Path, folder: Path) -> Path:
    """The lock of a folder under way."""
    return locks(store) / folder.name.removeprefix(".")
