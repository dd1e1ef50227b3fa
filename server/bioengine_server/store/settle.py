"""Have a package's description and its files speak of the same names, and find out what is missing, before it is stored.

    rdf.yaml, files -> each source looked for -> description and files with names that work everywhere, or FilesMissing

The package may come from a computer where `w\\weights.onnx` and `w/weights.onnx` are one file, or an `ü` is two characters; its
sources may be URLs of files that lie beside the description, or paths on its author's disk. What is meant is clear, so the
description that is stored says it in the one way that is understood here. Names that differ in their case are different.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from bioengine_server.errors import StoreError
from bioengine_server.store.adapt import adapt
from bioengine_server.store.manifest import RUNNABLE_WEIGHTS
from bioengine_server.store.named_files import NamedFile, Role, beside, is_url, named_files
from bioengine_server.store.package import OURS, RDF
from bioengine_server.store.yaml_text import dumped
from bioengine_server.untrusted import shown

_NAMED = 5  # files that an error names
# Other files, or programs, name these as well.
_KEPT = (Role.EXTERNAL_DATA, Role.ATTACHMENT)


class FilesMissing(StoreError):
    """Files that the description names and the package lacks."""

    def __init__(self, source: Path | str, missing: list[NamedFile], has: Iterable[str]) -> None:
        names = {file.source: file.role.value for file in missing}
        named = [f"{shown(name)!r} ({role})" for name, role in list(names.items())[:_NAMED]]
        if len(names) > _NAMED:
            named.append(f"{len(names) - _NAMED} more")
        likely = {name.casefold(): name for name in has}
        hints = [
            f" It has {shown(likely[name.casefold()])!r}, which differs in its case alone: give both the same name."
            for name in list(names)[:_NAMED]
            if name.casefold() in likely
        ]
        super().__init__(
            f"The package {shown(source, 300)} was not imported: its description names {', '.join(named)}, which the package "
            f"lacks.{''.join(hints)} Put {'this file' if len(names) == 1 else 'these files'} beside the description, under the "
            f"name that it says, or take {'its entry' if len(names) == 1 else 'their entries'} out of the description."
        )


def settle(source: Path | str, folder: Path, raw: dict[str, Any], must_be_whole: bool) -> None:
    """Write the description in `folder` anew where it names files otherwise than they are called there, or has to be adapted.

    Files are renamed where their names are not plain.

    Args:
        source: of the package, for messages.
        folder: with its files, and the description as `rdf.yaml`.
        raw: the plain data of the description; changed with it.
        must_be_whole: whether the package has to have all that its description names by path. Of one that was downloaded,
            from `source`, weights that are not run are not there, and what else is not there is named by its URL.

    Raises FilesMissing.
    """
    files = _Files(folder)
    changed = adapt(raw)
    missing = []
    for named in named_files(raw):
        found = files.find(named.source)
        if found is None:
            missing.append(named)
        else:
            name = found if named.role in _KEPT else files.plainly_named(found)
            if name != named.source:
                named.rename(name)
                changed = True
    if must_be_whole and (lacking := _lacking(missing, raw)):
        raise FilesMissing(source, lacking, files.names)
    if not must_be_whole:
        changed = name_by_url(raw, files.names, str(source)) or changed
    if changed:
        (folder / RDF).write_bytes(dumped(raw))


def leave_out_weights(raw: dict[str, Any], has: Iterable[str]) -> bool:
    """Leave the weights whose files a package does not have out of its description; whether there are any such."""
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
        # What they were converted from has to be another entry.
        if isinstance(entry, dict) and entry.get("parent") in lacking:
            del entry["parent"]
    return True


def name_by_url(raw: dict[str, Any], has: Iterable[str], description_url: str) -> bool:
    """Have the description name by URLs what a package does not have, but for its weights; whether there is any such file."""
    names, found = set(has), False
    for file in named_files(raw):
        belongs_to_weights = file.weights is not None and file.role is not Role.DEPENDENCIES
        if is_url(description_url) and not belongs_to_weights and not is_url(file.source) and file.source not in names:
            file.rename(beside(description_url, file.source))
            found = True
    return found


def _lacking(missing: list[NamedFile], raw: dict[str, Any]) -> list[NamedFile]:
    """Of the files that are not there, those without which a package is not whole.

    What is named by a URL may stay where it is; but the weights of one format have to be here, and code that runs with any.
    """
    by_url = [file for file in missing if is_url(file.source) and file.role is not Role.PROCESSING]
    absent = {file.weights for file in by_url if file.weights is not None and file.computes}
    weights = raw.get("weights")
    entries = {name for name, entry in weights.items() if entry is not None} if isinstance(weights, dict) else set()
    there, runnable = entries - absent, set(RUNNABLE_WEIGHTS)
    needed: set[str] = set() if there & runnable else absent & runnable or (set() if there else absent)
    return [file for file in missing if file not in by_url or (file.computes and file.weights in needed)]


class _Files:
    """The files of a package, by the names that descriptions may have for them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {RDF}
        self._composed = {_composed(name): name for name in self.names}
        folders = {str(parent) for name in self.names for parent in PurePosixPath(name).parents}
        self._taken = {name.casefold() for name in (*self.names, *folders, *OURS)}
        self._numbers: Counter[str] = Counter()

    def find(self, source: str) -> str | None:
        """The file that a description means by `source`."""
        for spelling in (source, source.replace("\\", "/")):
            if spelling in self.names:
                return spelling
            if not is_url(spelling) and (name := self._composed.get(_composed(str(PurePosixPath(spelling))))) is not None:
                return name
        if is_url(source):
            return self._composed.get(_composed(unquote(PurePosixPath(urlsplit(source).path).name)))
        # On the disk of whoever has made the package.
        if PurePosixPath(source).is_absolute() or PureWindowsPath(source).anchor:
            return self._composed.get(_composed(PureWindowsPath(source).name))
        return None

    def plainly_named(self, name: str) -> str:
        """The file's name in ASCII letters, which every process and every library opens; it is renamed where it has another.

        It stays in its folder, beside the files that belong to it.
        """
        path = PurePosixPath(name)
        if path.name.isascii():
            return name
        plain = target = path.with_name(_plain(path.name))
        while str(target).casefold() in self._taken:
            self._numbers[str(plain)] += 1
            target = plain.with_name(f"{plain.stem}-{self._numbers[str(plain)] + 1}{plain.suffix}")
        (self._folder / name).rename(self._folder / target)
        self.names.remove(name)
        self.names.add(str(target))
        self._taken.add(str(target).casefold())
        self._composed[_composed(name)] = str(target)
        return str(target)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    """`Gewichte-für-Zellen.onnx` as `Gewichte-fur-Zellen.onnx`; what is no letter with an accent becomes `_`.

    A name of a file, and no way elsewhere: some letters that are no dots and slashes are these when they are decomposed.
    """
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", letters) or "_"
