"""The model store: import packages, list them, remove them.

A package is written to a temporary folder on the same file system, validated and verified there, and finally renamed to its
place: an interrupted import leaves nothing half-done.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioengine_contract.manifest import FILE_NAME, Manifest
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.store import ALIASES_FILE, read_aliases

from bioengine_server.store import layout, reader
from bioengine_server.store.converted import declare_converted, keep_converted
from bioengine_server.store.errors import FileExists, NotAPackage, NotStored, StoreError, StoreNotWritable, StoreReadOnly
from bioengine_server.store.names import (
    SHIPPED_PACKAGES,
    NameTaken,
    ReservedName,
    claimed_names,
    may_be_name,
    proposed_id,
    same_but_for_case,
    shipped_package,
)
from bioengine_server.store.package import RDF, copy_package, hash_files, read_rdf, verify_hashes
from bioengine_server.store.settle import leave_out_weights, name_by_url, settle
from bioengine_server.store.usage import last_uses
from bioengine_server.store.yaml_text import dumped
from bioengine_server.whole_file import whole_file

logger = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class StoredModel:
    """A package of the store. `is_default`: whether clients get this version by the id alone.

    `refused`: after an import, names that the package claims but did not get: another package has them, or nobody may have them.
    """

    manifest: Manifest
    folder: Path
    is_default: bool
    refused: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """`<id>/<version>`, its folder in the store, and one of its names."""
        return f"{self.manifest.id}/{self.manifest.version}"


class ModelStore:
    """The stored models of one home."""

    def __init__(
        self,
        folder: Path,
        max_size: int = 20 * 1024**3,
        triton_models: Path | None = None,
        measure: Callable[[Manifest, Path], Manifest] = lambda manifest, folder: manifest,
    ) -> None:
        """
        Args:
            folder: the store's folder.
            max_size: the largest size of a package, in bytes.
            triton_models: the folder of the admin's own Triton models, whose names no package may have.
            measure: adds to a manifest what is found by running the package in a folder (`bioengine_server.store.halo`).
        """
        self.folder = folder
        self._max_size = max_size
        self._triton_models = triton_models
        self._measure = measure

    def check_writable(self) -> None:
        """Raises StoreReadOnly if the store is on a file system that is mounted read-only."""
        if layout.is_read_only(self.folder):
            raise StoreReadOnly(self.folder)

    def import_package(self, source: Path, id: str | None = None, replace: bool = False) -> StoredModel:
        """Import a package folder or zip, for the admin. It gets the names that it claims for itself if they are free.

        Args:
            source: the folder or zip.
            id: the id to store it under; by default the one in its description, or its name.
            replace: whether a name may from now on mean this package instead of another version or content.

        Raises NotAPackage, InvalidPackage, BadId, NameTaken, ReservedName, StoreNotWritable.
        """
        if id is not None:
            layout.check_id(id)
        with self.incoming(source) as folder:
            copy_package(source, folder, self._max_size)
            manifest, raw = _read(source, folder, id, must_be_whole=True)
            manifest = self._measure(manifest.model_copy(update={"origin": str(source.absolute())}), folder)
            place = f"{manifest.id}/{manifest.version}"
            with self._writing(source), layout.lock(self.folder):
                layout.sweep(self.folder)
                aliases = dict(read_aliases(self.folder))
                self._check_id(manifest, aliases)
                if not replace:
                    self._check_meaning(manifest, aliases)
                manifest = self._put(folder, manifest)
                aliases |= {place: place, manifest.id: place}
                claims = claimed_names(raw) - {manifest.id, place} if id is None else set()
                refused = {name for name in claims if not self._is_free(name, manifest.id, aliases)}
                aliases |= dict.fromkeys(claims - refused, place)
                layout.write_aliases(self.folder, aliases)
        return StoredModel(manifest, self.folder / place, is_default=True, refused=tuple(sorted(refused)))

    @contextlib.contextmanager
    def incoming(self, source: Path | str) -> Iterator[Path]:
        """A temporary folder for the package from `source`; it is removed at the end.

        Raises StoreNotWritable, or NotAPackage if the source cannot be read.
        """
        with self._writing(source):
            self.folder.mkdir(parents=True, exist_ok=True)
            with layout.held_folder(self.folder) as folder:
                yield folder

    def adopt(self, folder: Path, source: str, id: str, names: frozenset[str]) -> StoredModel:
        """Store a complete package that was downloaded to the incoming `folder`. No existing name changes its meaning.

        Args:
            folder: a folder from `incoming`.
            source: where it came from, for messages and the manifest.
            id: the id to store it under, which the client requested or the collection gives.
            names: further names, which the client requested or the collection gives.

        Raises NotAPackage, InvalidPackage, BadId, NameTaken, ReservedName, StoreNotWritable.
        """
        layout.check_id(id)
        manifest = self._measure(_read(source, folder, id, must_be_whole=False)[0], folder)
        place = f"{id}/{manifest.version}"
        with self._writing(source), layout.lock(self.folder):
            layout.sweep(self.folder)
            aliases = dict(read_aliases(self.folder))
            self._check_id(manifest, aliases)
            stored = self._stored(place) if place in aliases else None
            if stored is None:
                manifest = self._put(folder, manifest)
            elif not manifest.files.items() <= stored.files.items():
                raise NameTaken(
                    place, "another package in this server's store", "Its admin can import this one under another id."
                )
            wanted = {id, place, *(name for name in names if self._is_free(name, id, aliases))}
            aliases = dict.fromkeys(wanted, place) | aliases
            layout.write_aliases(self.folder, aliases)
        return StoredModel(manifest, self.folder / place, is_default=aliases[id] == place)

    def prepare(self) -> None:
        """Have the bundled models in the store (the readiness probe's, and one for a first result) and all manifests readable."""
        self.renew_manifests()
        self.install_shipped()

    def install_shipped(self) -> None:
        """Make sure that the bundled models are in the store, with their original content and under their names."""
        for package in sorted(SHIPPED_PACKAGES.iterdir()):
            try:
                is_there = self.find(package.name).manifest.files == hash_files(package)
            except (OSError, ValueError, NotStored, PackageUnreadable):
                is_there = False
            self._remove_impostors(package.name, is_there)
            if not is_there:
                self.import_package(package, package.name, replace=True)

    def renew_manifests(self) -> None:
        """Replace manifests of an earlier format by new ones. If a package cannot be read, its manifest stays as it is."""
        for file in layout.manifests(self.folder):
            with contextlib.suppress(OSError, ValueError, KeyError, StoreError):
                old = json.loads(file.read_text(encoding="utf-8"))
                if old["format"] == 1:
                    read = reader.read_package(old["origin"], file.parent, old["id"], old["files"])
                    kept = {"imported": old["imported"], "version": old["version"]}
                    layout.write_json(file, {**read.model_dump(mode="json"), **kept})
                    logger.info("The manifest of %s was renewed", file.parent.relative_to(self.folder))

    def models(self) -> list[StoredModel]:
        """All stored packages, sorted by id and version."""
        aliases = dict(read_aliases(self.folder))
        models = []
        for file in layout.manifests(self.folder):
            place = file.parent.relative_to(self.folder).as_posix()
            if place in aliases:
                try:
                    manifest = layout.read_manifest(self.folder, place)
                except PackageUnreadable as error:
                    if not isinstance(error.__cause__, FileNotFoundError):  # it is being replaced or removed at this moment
                        logger.warning("%s", error)  # the others are there all the same
                    continue
                models.append(StoredModel(manifest, file.parent, aliases.get(manifest.id) == place))
        return models

    def remove(self, name: str) -> list[str]:
        """Remove all versions of a model (`id`) or one of them (`id/version`). Returns what was removed.

        Raises NotStored.
        """
        with self._writing(self.folder), layout.lock(self.folder):
            layout.sweep(self.folder)
            aliases = dict(read_aliases(self.folder))
            places = sorted(set(aliases.values()))
            gone = [place for place in places if place == name or place.split("/")[0] == name]
            if not gone:
                raise NotStored(name, sorted({place.split("/")[0] for place in places}))
            left = {alias: place for alias, place in aliases.items() if place not in gone}
            id = gone[0].split("/")[0]
            others = [place for place in left.values() if place.split("/")[0] == id]
            if others and id not in left:
                left[id] = max(others, key=lambda place: layout.imported(self.folder / place))
            # The names are removed before the files, so that a reader never finds a name without its files.
            layout.write_aliases(self.folder, left)
            for place in gone:
                layout.discard(self.folder, self.folder / place)
            return gone

    def find(self, name: str) -> StoredModel:
        """The package that a name stands for. Raises NotStored, PackageUnreadable."""
        aliases = dict(read_aliases(self.folder))
        place = aliases.get(name)
        if place is None:
            raise NotStored(name, sorted({place.split("/")[0] for place in aliases.values()}))
        manifest = layout.read_manifest(self.folder, place)
        return StoredModel(manifest, self.folder / place, aliases.get(manifest.id) == place)

    def names(self, model: StoredModel) -> set[str]:
        """All names of a package."""
        place = model.place
        return {name for name, named in read_aliases(self.folder).items() if named == place}

    def export(self, model: StoredModel, target: Path, with_converted: bool = False) -> None:
        """Write a package to the zip `target`, completely or not at all. Raises FileExists, StoreError.

        If it was downloaded, some of its files are not stored: the description then lacks the weights that were not downloaded,
        and refers to other missing files by their URLs. `with_converted`: also converted weights, as weights of the package.
        """
        if os.path.exists(target):  # False also where that cannot be seen, which its writing tells
            raise FileExists(target)
        raw, files = reader.read_raw(model.folder, read_rdf(model.folder)), model.manifest.files
        is_partial = any([leave_out_weights(raw, files), name_by_url(raw, files, model.manifest.origin)])
        converted = declare_converted(raw, model.manifest) if with_converted else {}
        description = dumped(raw) if is_partial or converted else None
        try:
            with (
                whole_file(target, replace=False) as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False) as archive,
            ):
                for name in model.manifest.files:
                    if name == RDF and description is not None:
                        archive.writestr(name, description)
                    else:
                        archive.write(model.folder / name, name)
                for source, name in converted.items():
                    archive.write(model.folder / source, name)
        except OSError as error:
            raise StoreError(f"{target} could not be written: {error.strerror or error}. Choose another file with -o.") from error

    def prune(self, keep: int) -> list[str]:
        """Remove the least recently used packages until the rest has at most `keep` bytes; returns the removed ones.

        Bundled models are not removed.
        """
        uses = last_uses(self.folder)
        shipped = {package.name for package in SHIPPED_PACKAGES.iterdir()}
        models = self.models()
        size = sum(model.manifest.size for model in models)
        removed: list[str] = []
        for model in sorted(models, key=lambda model: max(uses.get(model.place, _LONG_AGO), model.manifest.imported)):
            if size > keep and model.manifest.id not in shipped:
                removed += self.remove(model.place)
                size -= model.manifest.size
        return removed

    def state(self) -> object:
        """A value that changes when a package is added, removed or renamed, because each such change rewrites the file of names.

        None if there is no store.
        """
        with contextlib.suppress(OSError):
            status = (self.folder / ALIASES_FILE).stat()
            return status.st_ino, status.st_mtime_ns
        return None

    def contains(self, name: str) -> bool:
        return name in read_aliases(self.folder)

    def _check_id(self, manifest: Manifest, aliases: Mapping[str, str]) -> None:
        """Raises BadId, ReservedName or NameTaken if no package, or not this one, may have the id."""
        id = layout.check_id(manifest.id)
        if (shipped := shipped_package(id)) is not None and (id != shipped.name or manifest.files != hash_files(shipped)):
            raise ReservedName(id)
        if (other := same_but_for_case(id, aliases)) is not None:
            raise NameTaken(other, "another package, from whose name it differs only in case", "Choose another with --id ID.")
        if self._is_triton_model(id):
            raise NameTaken(id, "a Triton model of this server's admin", "Choose another with --id ID.")

    def _check_meaning(self, manifest: Manifest, aliases: Mapping[str, str]) -> None:
        """Raises NameTaken if the package's names mean another package at present."""
        remedy = "Import it with --replace so that the name means this package from now on, or under another name with --id ID."
        for name in (f"{manifest.id}/{manifest.version}", manifest.id):
            if name in aliases and (stored := self._stored(aliases[name])) is not None and stored.files != manifest.files:
                differs = "a package with other content" if aliases[name] == name else f"the package {aliases[name]}"
                raise NameTaken(name, differs, remedy)

    def _is_free(self, name: str, id: str, aliases: Mapping[str, str]) -> bool:
        """Whether `name` may be a further name of the package `id`: it is free, or already a name of this package."""
        return (
            shipped_package(name) is None
            and same_but_for_case(name, aliases) is None
            and not self._is_triton_model(name)
            and aliases.get(name, id).split("/")[0] == id
            and may_be_name(name)
        )

    def _is_triton_model(self, name: str) -> bool:
        folder = self._triton_models
        if folder is None or not folder.is_dir():
            return False
        return any(model.name.casefold() == name.casefold() and model.is_dir() for model in folder.iterdir())

    def _stored(self, place: str) -> Manifest | None:
        """The manifest at `<id>/<version>`; None if there is none, or it cannot be read."""
        try:
            return layout.read_manifest(self.folder, place)
        except PackageUnreadable:
            return None

    def _remove_impostors(self, id: str, is_there: bool) -> None:
        """Remove other packages and names with the id of a bundled model, in any case, such as those of an older version.

        `is_there`: whether the id already means the bundled package.
        """
        aliases = dict(read_aliases(self.folder))
        own = aliases[id] if is_there else None
        wrong = {name: place for name, place in aliases.items() if place != own}
        for place in sorted({place for place in wrong.values() if place.split("/")[0].casefold() == id}):
            logger.warning("Removed %s: its id is reserved for a model that is bundled with this server", place)
            self.remove(place)
        if any(name.split("/")[0].casefold() == id for name in wrong):
            with self._writing(self.folder), layout.lock(self.folder):
                aliases = dict(read_aliases(self.folder))
                left = {name: aliases[name] for name in aliases if aliases[name] == own or name.split("/")[0].casefold() != id}
                layout.write_aliases(self.folder, left)

    def _put(self, folder: Path, manifest: Manifest) -> Manifest:
        """Move a package to its place, with the weights that were converted from this very package. Returns its manifest."""
        target = self.folder / manifest.id / manifest.version
        manifest = keep_converted(target, self._stored(f"{manifest.id}/{manifest.version}"), folder, manifest)
        layout.write_json(folder / FILE_NAME, manifest.model_dump(mode="json"))
        layout.put(self.folder, folder, target)
        return manifest

    @contextlib.contextmanager
    def _writing(self, source: Path | str) -> Iterator[None]:
        """Turn an OSError into an error that says what the user can do."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NotAPackage(source, "a name in it, or its own, is longer than the file system takes") from error
            # If a copy fails, the OSError names the source even if the target's disk is full.
            file, reason = None if error.errno in _NO_ROOM else error.filename, error.strerror or str(error)
            if file is not None and not Path(os.fsdecode(file)).is_relative_to(self.folder):
                raise NotAPackage(source, f"{os.fsdecode(file)} cannot be read ({reason})") from error
            raise StoreNotWritable(self.folder, reason) from error


def _read(source: Path | str, folder: Path, id: str | None, must_be_whole: bool) -> tuple[Manifest, dict[str, Any]]:
    """Verify a package's files, adapt its description to them, and return its manifest and the description's plain data.

    Raises NotAPackage, InvalidPackage, FilesMissing, RefusedWeights.
    """
    raw = reader.read_raw(source, read_rdf(folder))
    settle(source, folder, raw, must_be_whole)
    if id is None:
        fallback = "" if isinstance(source, str) else source.stem if source.is_file() else source.resolve().name
        id = layout.check_id(proposed_id(raw) or fallback)
    files = hash_files(folder)
    verify_hashes(source, raw, files)
    return reader.read_package(source, folder, id, files), raw
