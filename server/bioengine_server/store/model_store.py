"""The model store: import packages, list them, remove them.

A package is written to a folder of its own on the same file system, validated and verified there, and renamed to its
place at the end: an import that is cut off leaves nothing half-done.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioengine_server.errors import NotAPackage, NotStored
from bioengine_server.store import layout
from bioengine_server.store.manifest import FILE_NAME, Manifest, build_manifest
from bioengine_server.store.package import copy_package, hash_files, read_description, verify_hashes

_DOI = re.compile(r"(10\.[0-9]{4,9}/[A-Za-z0-9][A-Za-z0-9._-]{0,127})(/[0-9]{1,20})?")


@dataclass(frozen=True)
class StoredModel:
    """A package of the store. `is_default`: whether the plain id names this version."""

    manifest: Manifest
    folder: Path
    is_default: bool


class ModelStore:
    """The models of one home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def import_package(self, source: Path, id: str | None = None) -> StoredModel:
        """Import a package folder or zip; the version that was there before under the same name is replaced.

        Args:
            source: the folder or zip.
            id: the id to store it under; by default the one of its description, or its name.

        Raises NotAPackage, InvalidPackage, BadId.
        """
        with layout.lock(self.folder):
            self._sweep()
            incoming = self.folder / f"{layout.INCOMING}{uuid.uuid4().hex[:12]}"
            incoming.mkdir()
            try:
                copy_package(source, incoming)
                description, raw = read_description(source, incoming)
                files = hash_files(incoming)
                verify_hashes(source, raw, files)
                chosen = layout.check_id(id or _id_of(raw, source))
                version = layout.version_folder(raw.get("version"))
                manifest = build_manifest(description, raw, chosen, version, incoming, files)
                if not manifest.weights and not manifest.unsupported_weights:
                    raise NotAPackage(source, "none of its weight files is there")
                layout.write_json(incoming / FILE_NAME, manifest.model_dump(mode="json"))
                folder = self.folder / chosen / version
                self._replace(folder, incoming)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
            aliases = layout.read_aliases(self.folder)
            place = f"{chosen}/{version}"
            names = {chosen, place} | (_other_names(raw) if id is None else set())
            for name in names:
                if name in (chosen, place) or aliases.get(name, place).split("/")[0] == chosen:
                    aliases[name] = place
            layout.write_aliases(self.folder, aliases)
            return StoredModel(manifest, folder, is_default=True)

    def models(self) -> list[StoredModel]:
        """Every stored package, by id and version."""
        aliases = layout.read_aliases(self.folder)
        models = []
        for file in sorted(self.folder.glob(f"*/*/{FILE_NAME}")):
            place = file.parent.relative_to(self.folder).as_posix()
            if not place.startswith(".") and place in aliases:
                manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
                models.append(StoredModel(manifest, file.parent, aliases.get(manifest.id) == place))
        return models

    def remove(self, name: str) -> list[str]:
        """Remove a model with all its versions (`id`) or one of them (`id/version`). Returns what was removed.

        Raises NotStored.
        """
        with layout.lock(self.folder):
            self._sweep()
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

    def contains(self, id: str) -> bool:
        return id in layout.read_aliases(self.folder)

    def _replace(self, folder: Path, incoming: Path) -> None:
        self._discard(folder)
        folder.parent.mkdir(exist_ok=True)
        os.rename(incoming, folder)

    def _discard(self, folder: Path) -> None:
        """Move a package aside and delete it: whoever reads it by its name finds all of it or nothing."""
        if folder.exists():
            aside = self.folder / f"{layout.INCOMING}{uuid.uuid4().hex[:12]}"
            os.rename(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def _sweep(self) -> None:
        """Remove what imports that were cut off have left."""
        for leftover in self.folder.glob(f"{layout.INCOMING}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _id_of(raw: dict[str, Any], source: Path) -> str:
    """The id to store a package under: its nickname, its id, or the name of where it came from."""
    nickname = (raw.get("config") or {}).get("bioimageio", {}).get("nickname")
    for candidate in (nickname, raw.get("id")):
        if isinstance(candidate, str) and candidate and "/" not in candidate:
            return candidate
    return source.stem if source.is_file() else source.resolve().name


def _other_names(raw: dict[str, Any]) -> set[str]:
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
