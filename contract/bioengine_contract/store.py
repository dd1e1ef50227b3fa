"""Read the model store: from the id that a client sends to a package.

    <store>/<id>/<version>/     a package, with its model.json
    <store>/aliases.json        maps every name of a package to its key `<id>/<version>`

Only the server writes it (`bioengine_server.store`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from bioengine_contract.ids import PackageKey, parse_model_id
from bioengine_contract.package import Package, read_package
from bioengine_contract.package_errors import ModelNotFound, PackageUnreadable

ALIASES_FILE = "aliases.json"


def resolve(store: Path, model_id: object) -> Package:
    """The package that `model_id` names. Raises BadModelId, ModelNotFound, PackageUnreadable."""
    wanted = parse_model_id(model_id)
    aliases = read_aliases(store)
    text = aliases.get(wanted)
    if text is None:
        raise ModelNotFound(wanted, sorted({value.split("/")[0] for value in aliases.values()}))
    key = PackageKey.parse(text)
    if key is None:
        raise PackageUnreadable(wanted, f"{ALIASES_FILE} names the folder {text!r}")
    return package_of(store, key)


def package_of(store: Path, key: PackageKey) -> Package:
    """The package with this key. Raises PackageUnreadable."""
    return read_package(store / key.id / key.version, is_default=read_aliases(store).get(key.id) == str(key))


def read_aliases(store: Path) -> Mapping[str, str]:
    """Every name of a package and the key that it stands for; empty if there is no store yet. Raises OSError, ValueError."""
    file = store / ALIASES_FILE
    try:
        found = file.stat()
        return _read(file, found.st_mtime_ns, found.st_size, found.st_ino)
    except FileNotFoundError:
        return MappingProxyType({})


@functools.lru_cache(maxsize=8)
def _read(file: Path, changed: int, size: int, inode: int) -> Mapping[str, str]:
    return MappingProxyType(dict(json.loads(file.read_text(encoding="utf-8"))))
