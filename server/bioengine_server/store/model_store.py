"""The model store: import packages, list them, remove them.

A package is written to a folder of its own on the same file system, validated and verified there, and renamed to its
place at the end: an import that is cut off leaves nothing half-done.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioengine_server.errors import FileExists, NotAPackage, NotStored, StoreError, StoreNotWritable, StoreReadOnly
from bioengine_server.store import layout
from bioengine_server.store.manifest import FILE_NAME, Manifest, build_manifest
from bioengine_server.store.package import copy_package, hash_files, read_description, read_raw, verify_hashes
from bioengine_server.store.usage import last_uses

# Packages that come with the project, one folder for each id.
SHIPPED_PACKAGES = Path(__file__).resolve().parents[1] / "packages"

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)

_DOI = re.compile(r"(10\.[0-9]{4,9}/[A-Za-z0-9][A-Za-z0-9._-]{0,127})(/[0-9]{1,20})?")


@dataclass(frozen=True)
class StoredModel:
    """A package of the store. `is_default`: whether the plain id names this version."""

    manifest: Manifest
    folder: Path
    is_default: bool


class ModelStore:
    """The models of one home."""

    def __init__(self, folder: Path, max_size: int = 20 * 1024**3) -> None:
        """
        Args:
            folder: of the store.
            max_size: bytes of a package, at most.
        """
        self.folder = folder
        self._max_size = max_size

    def check_writable(self) -> None:
        """Raises StoreReadOnly where the store is on a file system that is mounted read-only."""
        if layout.is_read_only(self.folder):
            raise StoreReadOnly(self.folder)

    def import_package(self, source: Path, id: str | None = None) -> StoredModel:
        """Import a package folder or zip; the version that was there before under the same name is replaced.

        Args:
            source: the folder or zip.
            id: the id to store it under; by default the one of its description, or its name.

        Raises NotAPackage, InvalidPackage, BadId, StoreNotWritable.
        """
        if id is not None:
            layout.check_id(id)
        with self.incoming(source) as folder:
            copy_package(source, folder, self._max_size)
            return self.adopt(folder, source, id or _id_of(folder, source), own_names=id is None)

    @contextlib.contextmanager
    def incoming(self, source: Path | str) -> Iterator[Path]:
        """A folder to put the package from `source` into; what is still there at the end is removed.

        Raises StoreNotWritable, and NotAPackage for a source that cannot be read.
        """
        with self._writing(source):
            self.folder.mkdir(parents=True, exist_ok=True)
            with layout.held_folder(self.folder) as folder:
                yield folder

    def adopt(
        self,
        folder: Path,
        source: Path | str,
        id: str,
        own_names: bool = True,
        names: frozenset[str] = frozenset(),
        make_default: bool = True,
    ) -> StoredModel:
        """Take a complete package from the incoming `folder` into the store.

        Args:
            folder: of `incoming`.
            source: where it came from, for messages and the manifest.
            id: to store it under.
            own_names: whether its nickname and DOIs name it too.
            names: further names of it.
            make_default: whether the plain id names it from now on, also where it names another version.

        Raises NotAPackage, InvalidPackage, BadId, StoreNotWritable.
        """
        layout.check_id(id)
        description, raw = read_description(source, folder)
        files = hash_files(folder)
        verify_hashes(source, raw, files)
        version = layout.version_folder(raw.get("version"))
        manifest = build_manifest(description, raw, id, version, folder, files, origin=str(source))
        if not manifest.weights and not manifest.unsupported_weights:
            raise NotAPackage(source, "none of its weight files is there")
        place = f"{id}/{version}"
        with self._writing(source), layout.lock(self.folder):
            layout.sweep(self.folder)
            layout.write_json(folder / FILE_NAME, manifest.model_dump(mode="json"))
            self._replace(self.folder / place, folder)
            aliases = layout.read_aliases(self.folder)
            aliases[place] = place
            if make_default or id not in aliases:
                aliases[id] = place
            for name in (names | other_names(raw) if own_names else names) - {id, place}:
                # A name of another model stays with that one.
                if aliases.get(name, place).split("/")[0] == id:
                    aliases[name] = place
            layout.write_aliases(self.folder, aliases)
            return StoredModel(manifest, self.folder / place, is_default=aliases[id] == place)

    def models(self) -> list[StoredModel]:
        """Every stored package, by id and version."""
        aliases = layout.read_aliases(self.folder)
        models = []
        for file in sorted(self.folder.glob(f"*/*/{FILE_NAME}")):
            place = file.parent.relative_to(self.folder).as_posix()
            if not place.startswith(".") and place in aliases:
                try:
                    manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
                except FileNotFoundError:
                    continue  # it is being replaced or removed at this moment
                models.append(StoredModel(manifest, file.parent, aliases.get(manifest.id) == place))
        return models

    def remove(self, name: str) -> list[str]:
        """Remove a model with all its versions (`id`) or one of them (`id/version`). Returns what was removed.

        Raises NotStored.
        """
        with self._writing(self.folder), layout.lock(self.folder):
            layout.sweep(self.folder)
            aliases = layout.read_aliases(self.folder)
            places = sorted(set(aliases.values()))
            gone = [place for place in places if place == name or place.split("/")[0] == name]
            if not gone:
                raise NotStored(name, sorted({place.split("/")[0] for place in places}))
            left = {alias: place for alias, place in aliases.items() if place not in gone}
            id = gone[0].split("/")[0]
            others = [place for place in left.values() if place.split("/")[0] == id]
            if others and id not in left:
                left[id] = max(others, key=lambda place: (self.folder / place / FILE_NAME).stat().st_mtime_ns)
            # First the names, then the files: a reader never finds a name without its files.
            layout.write_aliases(self.folder, left)
            for place in gone:
                self._discard(self.folder / place)
            return gone

    def find(self, name: str) -> StoredModel:
        """The package that any of its names means. Raises NotStored."""
        aliases = layout.read_aliases(self.folder)
        place = aliases.get(name)
        if place is None:
            raise NotStored(name, sorted({place.split("/")[0] for place in aliases.values()}))
        manifest = Manifest.model_validate_json((self.folder / place / FILE_NAME).read_text(encoding="utf-8"))
        return StoredModel(manifest, self.folder / place, aliases.get(manifest.id) == place)

    def names(self, model: StoredModel) -> set[str]:
        """Every name of a package."""
        place = _place(model)
        return {name for name, named in layout.read_aliases(self.folder).items() if named == place}

    def export(self, model: StoredModel, target: Path) -> None:
        """Write a package as the zip `target`, whole or not at all. Raises FileExists, StoreError."""
        if target.exists():
            raise FileExists(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name in model.manifest.files:
                    archive.write(model.folder / name, name)
            os.replace(temporary, target)
        except OSError as error:
            raise StoreError(f"{target} could not be written: {error.strerror or error}. Name another file with -o.") from error
        finally:
            temporary.unlink(missing_ok=True)

    def prune(self, keep: int) -> list[str]:
        """Remove the packages that were not used for longest until the rest has at most `keep` bytes; says which.

        Those that come with the project stay.
        """
        uses = last_uses(self.folder)
        shipped = {package.name for package in SHIPPED_PACKAGES.iterdir()}
        models = self.models()
        size = sum(model.manifest.size for model in models)
        removed: list[str] = []
        for model in sorted(models, key=lambda model: max(uses.get(_place(model), _LONG_AGO), model.manifest.imported)):
            if size > keep and model.manifest.id not in shipped:
                removed += self.remove(_place(model))
                size -= model.manifest.size
        return removed

    def state(self) -> object:
        """What differs when a package has come, gone, or got another name since: each such change writes all names anew.

        None where there is no store.
        """
        with contextlib.suppress(OSError):
            status = (self.folder / layout.ALIASES_FILE).stat()
            return status.st_ino, status.st_mtime_ns
        return None

    def contains(self, name: str) -> bool:
        return name in layout.read_aliases(self.folder)

    def _replace(self, folder: Path, incoming: Path) -> None:
        self._discard(folder)
        folder.parent.mkdir(exist_ok=True)
        os.rename(incoming, folder)

    def _discard(self, folder: Path) -> None:
        """Move a package aside and delete it: whoever reads it by its name finds all of it or nothing."""
        if folder.exists():
            with layout.held_folder(self.folder) as aside:
                os.rename(folder, aside)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    @contextlib.contextmanager
    def _writing(self, source: Path | str) -> Iterator[None]:
        """Turn what the system says about files into what a person can do about it."""
        try:
            yield
        except OSError as error:
            # Of a copy that fails the system names the source, also where the target has no room.
            file, reason = None if error.errno in _NO_ROOM else error.filename, error.strerror or str(error)
            if file is not None and not Path(os.fsdecode(file)).is_relative_to(self.folder):
                raise NotAPackage(source, f"{os.fsdecode(file)} cannot be read ({reason})") from error
            raise StoreNotWritable(self.folder, reason) from error


def _place(model: StoredModel) -> str:
    return f"{model.manifest.id}/{model.manifest.version}"


def _id_of(folder: Path, source: Path) -> str:
    """The id to store a package under: its nickname, its id, or the name of where it came from."""
    return own_id(read_raw(source, folder)) or (source.stem if source.is_file() else source.resolve().name)


def own_id(raw: dict[str, Any]) -> str | None:
    """The nickname or id in a description, where it can be an id of ours."""
    nickname = (raw.get("config") or {}).get("bioimageio", {}).get("nickname")
    for candidate in (nickname, raw.get("id")):
        if isinstance(candidate, str) and candidate and "/" not in candidate:
            return candidate
    return None


def other_names(raw: dict[str, Any]) -> set[str]:
    """What else clients may call a package: its id in the description and its DOI, with and without the record."""
    config = (raw.get("config") or {}).get("bioimageio", {})
    names = set()
    for candidate in (
        raw.get("id"),
        config.get("nickname"),
        config.get("doi"),
        (raw.get("config") or {}).get("_deposit", {}).get("doi"),
    ):
        if isinstance(candidate, str) and (found := _DOI.fullmatch(candidate)):
            names |= {candidate, found[1]}
        elif isinstance(candidate, str) and candidate and "/" not in candidate:
            names.add(candidate)
    return names
