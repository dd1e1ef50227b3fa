"""A stored package: its folder, and the manifest in it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bioengine_contract.ids import PackageKey
from bioengine_contract.manifest import FILE_NAME, Manifest
from bioengine_contract.package_errors import PackageUnreadable


@dataclass(frozen=True)
class Package:
    """A package of the model store. `is_default`: whether clients get this version by the id alone.

    `fingerprint` changes when the package is imported again. It is the same for every process that reads the store.
    """

    folder: Path
    manifest: Manifest
    fingerprint: str
    is_default: bool

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def key(self) -> PackageKey:
        return PackageKey(self.manifest.id, self.manifest.version)


def read_package(folder: Path, is_default: bool) -> Package:
    """The package in `<store>/<id>/<version>`. Raises PackageUnreadable."""
    file = folder / FILE_NAME
    try:
        found = file.stat()
        manifest, fingerprint = _read(file, found.st_mtime_ns, found.st_size, found.st_ino)
    except (OSError, ValueError) as error:
        raise PackageUnreadable(folder.parent.name, f"{FILE_NAME}: {error}") from error
    return Package(folder, manifest, fingerprint, is_default)


@functools.lru_cache(maxsize=512)
def _read(file: Path, changed: int, size: int, inode: int) -> tuple[Manifest, str]:
    content = file.read_bytes()
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None
    return manifest, hashlib.sha256(content).hexdigest()[:32]
