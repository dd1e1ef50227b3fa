"""Make the names in a package's description match its files, and find out what is missing, before the package is stored.

    rdf.yaml, files -> look for each source -> description and files with names that work everywhere, or FilesMissing

The package may come from a computer where `w\\weights.onnx` and `w/weights.onnx` are the same file, or where an `ü` is two
characters; its sources may be URLs of files that are beside the description, or paths on its author's disk. The description that
is stored contains the names that the files have here. Names that differ only in case are different names.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from bioengine_contract.weights import RUNNABLE

from bioengine_server.store import reader
from bioengine_server.store.adapt import adapt
from bioengine_server.store.errors import StoreError
from bioengine_server.store.named_files import NamedFile, Role, beside, is_url, name_in, named_files
from bioengine_server.store.package import MADE, OURS, RDF
from bioengine_server.store.yaml_text import dumped
from bioengine_server.untrusted import shown

_NAMED = 5  # files that an error message names
# These are also named by other files or programs, so they must not be renamed.
_KEPT = (Role.EXTERNAL_DATA, Role.ATTACHMENT)


class FilesMissing(StoreError):
    """The description names files that the package does not contain.

    `others`: by source, files that have the same name, but not the SHA-256 that the description gives.
    """

    code = "files_missing"

    def __init__(
        self, source: Path | str, missing: list[NamedFile], has: Iterable[str], others: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        names = {file.source: file.role.value for file in missing}
        named = [f"{shown(name)!r} ({role})" for name, role in list(names.items())[:_NAMED]]
        if len(names) > _NAMED:
            named.append(f"{len(names) - _NAMED} more")
        likely = {name.casefold(): name for name in has}
        hints = [
            f" It has {shown(likely[name.casefold()])!r}, which differs only in case: give both the same name."
            for name in list(names)[:_NAMED]
            if name.casefold() in likely
        ] + [
            f" Its file {shown(others[name])!r} is a different file or is damaged: its SHA-256 is not the one in the description."
            for name in list(names)[:_NAMED]
            if name in others
        ]
        super().__init__(
            f"The package {shown(source, 300)} was not imported: its description names {', '.join(named)}, which the package "
            f"lacks.{''.join(hints)} Put {'this file' if len(names) == 1 else 'these files'} beside the description, under the "
            f"name that it says, or take {'its entry' if len(names) == 1 else 'their entries'} out of the description."
        )


def settle(source: Path | str, folder: Path, raw: dict[str, Any], must_be_whole: bool) -> None:
    """Rewrite the description in `folder` if its file names differ from the files' names, or if it has to be adapted.

    Files whose names contain other than ASCII letters are renamed.

    Args:
        source: where the package came from, for messages.
        folder: its folder, with the description as `rdf.yaml`.
        raw: the plain data of the description; it is changed too.
        must_be_whole: whether the package must contain all files that its description names by path. A downloaded package lacks
        the
            weights that cannot be run; other missing files are named by their URLs, relative to `source`.

    Raises FilesMissing.
    """
    files = _Files(folder)
    changed = adapt(raw)
    all_named = list(named_files(raw))
    # Downloaded files already have their local names: a source that is still a URL was not downloaded.
    elsewhere = _Elsewhere(files, all_named) if must_be_whole else None
    found = [files.find(named.source) or (elsewhere.find(named) if elsewhere is not None else None) for named in all_named]
    for named, name in zip(all_named, found, strict=True):
        if name is not None and named.role not in _KEPT:
            files.name_plainly(name)
    data = [name for named, name in zip(all_named, found, strict=True) if name is not None and named.role in _KEPT]
    onnx = [name for named, name in zip(all_named, found, strict=True) if named.role is Role.WEIGHTS and named.weights == "onnx"]
    if onnx and onnx[0] is not None and not all(name.isascii() for name in data):
        weights = PurePosixPath(files.name_now(onnx[0]))
        paths = reader.external_paths(source, folder / weights)
        files.spell_as((str(weights.parent / path) for path in paths), data)
    for named, name in zip(all_named, found, strict=True):
        if name is not None and (name := files.name_now(name)) != named.source:
            named.rename(name)
            changed = True
    missing = [named for named, name in zip(all_named, found, strict=True) if name is None]
    if elsewhere is not None and (lacking := _lacking(missing, raw)):
        raise FilesMissing(source, lacking, files.names, elsewhere.others)
    if not must_be_whole:
        changed = name_by_url(raw, files.names, str(source)) or changed
    if changed:
        (folder / RDF).write_bytes(dumped(raw))


def leave_out_weights(raw: dict[str, Any], has: Iterable[str]) -> bool:
    """Remove weights from the description whose files are not in the package; returns whether there were any."""
    names = set(has)
    lacking = {
        file.weights
        for file in named_files(raw)
        if file.role is Role.WEIGHTS and file.source not in names and not is_url(file.source)
    }
    weights = raw.get("weights")
    if not lacking or not isinstance(weights, dict):
        return False
    raw["weights"] = {name: entry for name, entry in weights.items() if name not in lacking}
    for entry in raw["weights"].values():
        # `parent` must refer to another entry.
        if isinstance(entry, dict) and entry.get("parent") in lacking:
            del entry["parent"]
    return True


def name_by_url(raw: dict[str, Any], has: Iterable[str], description_url: str) -> bool:
    """Name missing files, except weights, by their URLs in the description; returns whether there were any."""
    names, found = set(has), False
    for file in named_files(raw):
        belongs_to_weights = file.weights is not None and file.computes
        if is_url(description_url) and not belongs_to_weights and not is_url(file.source) and file.source not in names:
            file.rename(beside(description_url, file.source))
            found = True
    return found


def _lacking(missing: list[NamedFile], raw: dict[str, Any]) -> list[NamedFile]:
    """Of the missing files, those that a complete package needs.

    Files that are named by a URL may be missing, except the weights of at least one format, and code that runs with all formats.
    """
    by_url = [file for file in missing if is_url(file.source) and file.role is not Role.PROCESSING]
    absent = {file.weights for file in by_url if file.weights is not None and file.computes}
    weights = raw.get("weights")
    entries = {name for name, entry in weights.items() if entry is not None} if isinstance(weights, dict) else set()
    there, runnable = entries - absent, set(RUNNABLE)
    needed: set[str] = set() if there & runnable else absent & runnable or (set() if there else absent)
    return [file for file in missing if file not in by_url or (file.computes and file.weights in needed)]


class _Files:
    """The files of a package, by the names that a description may use for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {RDF}
        self._composed = {_composed(name): name for name in self.names}
        folders = {str(parent) for name in self.names for parent in PurePosixPath(name).parents}
        self._taken = {name.casefold() for name in (*self.names, *folders, *OURS)}
        self._numbers: Counter[str] = Counter()
        self._renamed: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._make_room_for_ours()

    def find(self, source: str) -> str | None:
        """The file that a description refers to by the path `source`."""
        for spelling in (source, source.replace("\\", "/")):
            if spelling in self.names:
                return spelling
            if not is_url(spelling) and (name := self._composed.get(_composed(str(PurePosixPath(spelling))))) is not None:
                return name
        return None

    def sha256(self, name: str) -> str:
        if name not in self._hashes:
            with open(self._folder / name, "rb") as file:
                self._hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[name]

    def name_now(self, name: str) -> str:
        """The present name of the file that was called `name`."""
        return self._renamed.get(name, name)

    def _make_room_for_ours(self) -> None:
        """Rename files and folders of the package that have the name of a file or folder of the store's own."""
        names_of: dict[str, list[str]] = {}
        for name in self.names:
            names_of.setdefault(name.partition("/")[0], []).append(name)
        for top in sorted(top for top in names_of if top.casefold() in MADE):
            target = self._free(PurePosixPath(top))
            (self._folder / top).rename(self._folder / target)
            self._taken.add(str(target).casefold())
            for name in names_of[top]:
                moved = str(target.joinpath(*PurePosixPath(name).parts[1:]))
                self.names.remove(name)
                self.names.add(moved)
                self._taken.add(moved.casefold())
                self._composed[_composed(name)] = moved

    def name_plainly(self, name: str) -> None:
        """Rename a file whose name has non-ASCII letters, so that every process and library can open it.

        It stays in its folder, beside the files that belong to it.
        """
        path = PurePosixPath(name)
        if path.name.isascii() or name in self._renamed:
            return
        self._rename(name, str(self._free(path.with_name(_plain(path.name)))))

    def _free(self, path: PurePosixPath) -> PurePosixPath:
        """`path`, with a number if that name is already used."""
        target = path
        while str(target).casefold() in self._taken:
            self._numbers[str(path)] += 1
            target = path.with_name(f"{path.stem}-{self._numbers[str(path)] + 1}{path.suffix}")
        return target

    def spell_as(self, names: Iterable[str], data: Iterable[str]) -> None:
        """Rename files in `data` to the names in `names` that differ only in how letters are encoded, if these names are free.

        An ONNX file refers to its data files by these names, and is not changed.
        """
        spelled = {_composed(file): file for file in data if file in self.names}
        for name in names:
            if (file := spelled.get(_composed(name))) is not None and self._is_free(name):
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._rename(file, name)
                del spelled[_composed(name)]

    def _is_free(self, name: str) -> bool:
        is_in_a_file = any(str(parent) in self.names for parent in PurePosixPath(name).parents)
        return name.casefold() not in self._taken and not is_in_a_file

    def _rename(self, name: str, target: str) -> None:
        (self._folder / name).rename(self._folder / target)
        self.names.remove(name)
        self.names.add(target)
        self._taken.add(target.casefold())
        self._renamed[name] = target


class _Elsewhere:
    """Finds files that a description names by where they were before: by a URL, or by a path on the author's disk.

    A file matches if it has the same last name, and the SHA-256 that the description gives. If it gives none, the file matches
    only if nothing else in the description may refer to it: files in different folders often have the same name.

    `others`: by source, files with the same name but another SHA-256.
    """

    def __init__(self, files: _Files, all_named: Iterable[NamedFile]) -> None:
        self._files = files
        self._meant: dict[str, set[str]] = {}
        self.others: dict[str, str] = {}
        for named in all_named:
            if (file := files.find(named.source) or self._of_that_name(named.source)) is not None:
                self._meant.setdefault(file, set()).add(named.source)

    def find(self, named: NamedFile) -> str | None:
        file = self._of_that_name(named.source)
        if file is None:
            return None
        if named.sha256 is None:
            return file if len(self._meant[file]) == 1 else None
        if self._files.sha256(file) == named.sha256.lower():
            return file
        self.others[named.source] = file
        return None

    def _of_that_name(self, source: str) -> str | None:
        if is_url(source):
            return self._files.find(unquote(name_in(source)))
        if PurePosixPath(source).is_absolute() or PureWindowsPath(source).anchor:
            return self._files.find(PureWindowsPath(source).name)
        return None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    """`Gewichte-für-Zellen.onnx` becomes `Gewichte-fur-Zellen.onnx`; other non-ASCII characters become `_`.

    The result is always a plain file name: some characters become dots or slashes when they are decomposed, and are replaced.
    """
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", letters) or "_"
