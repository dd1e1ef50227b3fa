"""Take a bioimage.io package from a folder or a zip: copy, validate, verify. Packages are data; nothing in them is run."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from bioimageio.spec import InvalidDescr, load_description
from bioimageio.spec.model import v0_4, v0_5

from bioengine_server.errors import InvalidPackage, NotAPackage
from bioengine_server.store.manifest import FILE_NAME, ModelDescription

RDF = "rdf.yaml"
_OTHER_RDF_NAMES = ("bioimageio.yaml", "model.yaml")

# A zip whose content is many times larger than itself is no package; model weights hardly compress.
_MOST_EXPANSION = 200
_MOST_FILES = 10_000


def copy_package(source: Path, target: Path) -> None:
    """Copy the regular files of a package folder or zip into the empty folder `target`. Raises NotAPackage."""
    if source.is_dir():
        _copy_folder(source, target)
    elif source.is_file() and zipfile.is_zipfile(source):
        _unzip(source, target)
    elif source.is_file():
        raise NotAPackage(source, "it is a file, and not a zip")
    else:
        raise NotAPackage(source, "there is no such folder or file")
    _bring_rdf_to_top(source, target)


def _copy_folder(source: Path, target: Path) -> None:
    if not any((source / name).is_file() for name in (RDF, *_OTHER_RDF_NAMES)):
        raise NotAPackage(source, f"the folder has no {RDF}")
    count = 0
    for folder, _, names in os.walk(source):  # does not follow links to folders
        for name in names:
            file = Path(folder) / name
            if not stat.S_ISREG(file.lstat().st_mode):
                raise NotAPackage(source, f"{file.relative_to(source)} is not a regular file")
            count += 1
            if count > _MOST_FILES:
                raise NotAPackage(source, f"it has more than {_MOST_FILES} files")
            destination = target / file.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, destination)


def _unzip(source: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > _MOST_FILES:
                raise NotAPackage(source, f"it has more than {_MOST_FILES} files")
            if sum(entry.file_size for entry in entries) > _MOST_EXPANSION * max(source.stat().st_size, 1_000_000):
                raise NotAPackage(source, "its content is far too large for its size")
            for entry in entries:
                path = PurePosixPath(entry.filename)
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or kind not in (0, stat.S_IFREG):
                    raise NotAPackage(source, f"the zip has an entry that is not a plain file inside it ({entry.filename!r})")
                destination = target / path
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as compressed, open(destination, "wb") as file:
                    shutil.copyfileobj(compressed, file)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise NotAPackage(source, f"the zip cannot be read ({error})") from error


def _bring_rdf_to_top(source: Path, target: Path) -> None:
    """Packages may lie in one folder within the zip, and their description may have an older name."""
    content = list(target.iterdir())
    if len(content) == 1 and content[0].is_dir():
        inner = content[0].rename(target / ".inner")
        for item in inner.iterdir():
            item.rename(target / item.name)
        inner.rmdir()
    for name in _OTHER_RDF_NAMES:
        if not (target / RDF).exists() and (target / name).is_file():
            (target / name).rename(target / RDF)
    if not (target / RDF).is_file():
        raise NotAPackage(source, f"it has no {RDF}")
    (target / FILE_NAME).unlink(missing_ok=True)  # ours, when a stored folder is imported again


def read_description(source: Path, folder: Path) -> tuple[ModelDescription, dict[str, Any]]:
    """The validated description in `folder` and its plain data. Raises NotAPackage, InvalidPackage.

    Without the checks that would fetch what the description links to.
    """
    try:
        raw = yaml.safe_load((folder / RDF).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NotAPackage(source, f"{RDF} is not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(raw, dict):
        raise NotAPackage(source, f"{RDF} is not a description")
    if raw.get("type", "model") != "model":
        raise NotAPackage(source, f"it describes a {raw.get('type')}, not a model")
    try:
        description: Any = load_description(folder / RDF, perform_io_checks=False)
    except Exception as error:  # whatever a hostile description makes of the validation
        raise InvalidPackage(source, f"  {type(error).__name__}: {error}") from error
    if isinstance(description, InvalidDescr):
        details = [
            f"  {'.'.join(map(str, entry.loc)) or RDF}: {entry.msg}"
            for detail in description.validation_summary.details
            for entry in detail.errors
        ]
        raise InvalidPackage(source, "\n".join(details[:10]) or "  unknown format")
    if not isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr)):
        raise NotAPackage(source, f"it describes a {type(description).__name__}, not a model")
    for spec in description.inputs:
        if getattr(spec, "output_of", None):
            raise NotAPackage(source, f"its input '{spec.id}' is the output of another model, which is not supported")  # type: ignore[union-attr]
    return description, jsonable(raw)


def hash_files(folder: Path, progress: Callable[[str], None] = lambda name: None) -> dict[str, str]:
    """SHA-256 of every file in `folder`, by its path within."""
    hashes = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            progress(name)
            with open(file, "rb") as stream:
                hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def verify_hashes(source: Path, raw: Any, files: dict[str, str]) -> None:
    """Compare every `{source, sha256}` of a description with the files. Raises NotAPackage."""
    if isinstance(raw, dict):
        name, wanted = raw.get("source"), raw.get("sha256")
        if isinstance(name, str) and name in files and isinstance(wanted, str) and files[name] != wanted.lower():
            raise NotAPackage(
                source, f"{name} is damaged: its SHA-256 is {files[name][:12]}…, the description says {wanted[:12]}…"
            )
        for value in raw.values():
            verify_hashes(source, value, files)
    elif isinstance(raw, list):
        for value in raw:
            verify_hashes(source, value, files)


def jsonable(value: Any) -> Any:
    """Plain data of YAML as plain data of JSON: dates become text, not-finite numbers too."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
