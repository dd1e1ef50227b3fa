"""Where things lie in the model store.

    <home>/models/<id>/<version>/       an unpacked package, with its model.json
    <home>/models/aliases.json          from every name of a package to its folder `<id>/<version>`
    <home>/models/.incoming-*           imports under way; removed by the next import when one was cut off

The runner reads the same (`bioengine_runner.store.resolve`); a test holds both to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bioengine_server.errors import BadId

ALIASES_FILE = "aliases.json"
INCOMING = ".incoming-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ROUTER = "bioengine-model-runner"


def check_id(id: str) -> str:
    """`id`, if it can be the name of a folder and of a Triton model of its own. Raises BadId.

    `--` sets a version or weights apart in the name of a Triton model.
    """
    if not _NAME.fullmatch(id) or "--" in id or id == _ROUTER:
        raise BadId(id)
    return id


def version_folder(version: object) -> str:
    """A package's version as a folder name; packages without one are `0`."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", str(version)) if version is not None else "0"
    return name if _NAME.fullmatch(name) else "0"


def read_aliases(store: Path) -> dict[str, str]:
    try:
        return dict(json.loads((store / ALIASES_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def write_aliases(store: Path, aliases: dict[str, str]) -> None:
    write_json(store / ALIASES_FILE, dict(sorted(aliases.items())))


def write_json(path: Path, document: object) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def lock(store: Path) -> Iterator[None]:
    """Hold the store for a change."""
    store.mkdir(parents=True, exist_ok=True)
    with open(store / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
