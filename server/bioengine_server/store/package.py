"""Copy a bioimage.io package from a folder or a zip, and verify its files. Packages are data: nothing in them is run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from bioengine_contract.manifest import FILE_NAME
from bioengine_contract.removal import remove
from bioengine_contract.weights import CONVERTED

from bioengine_server.store.description import MAX_SIZE
from bioengine_server.store.errors import NotAPackage
from bioengine_server.untrusted import shown

RDF = "rdf.yaml"
RDF_NAMES = (RDF, "bioimageio.yaml", "model.yaml")
"""File names of a description, which may have a prefix as in `my.rdf.yaml`. As in bioimageio.spec, the first match is used."""

# The store's own folder beside a package's files, for test reports.
REPORTS = "reports"

CONVERSION = "converted.json"
"""What the store knows of the weights that it has converted, beside them (`bioengine_contract.weights.CONVERTED`)."""

MADE = (FILE_NAME, REPORTS, CONVERTED, CONVERSION)
"""Files and folders that the store makes beside a package's files."""

OURS = (RDF, *MADE)
"""Names that the store uses beside a package's files; no file of the package may have one."""

_UNIQUE = {*RDF_NAMES, FILE_NAME}

# Files that Finder and Windows add to folders.
_JUNK = re.compile(r"(^|/)(\.DS_Store|\._[^/]*|Thumbs\.db|desktop\.ini)$|^__MACOSX/", re.IGNORECASE)

# A zip whose content is many times larger than the zip is not a package, because model weights hardly compress.
_MAX_EXPANSION = 200
_MAX_FILES = 10_000
_MAX_FOLDERS = 10  # folders around the package in a zip
MAX_DEPTH = 20  # nested folders above a file
_MAX_MANIFEST = 60_000_000  # bytes; it is written, with spaces, from an answer of the reader of at most a third of this size
_SAID_BY_MANIFEST = {"id", "version", "imported", "origin", "triton_config", "files"}
_CHUNK = 1 << 20  # bytes
_IS_UTF8 = 0x800  # flag of a zip's entry


def copy_package(source: Path, target: Path, max_size: int) -> None:
    """Copy the regular files of a package folder or zip, at most `max_size` bytes, into the empty folder `target`.

    Raises NotAPackage.
    """
    if source.is_dir():
        _copy_folder(source, target, max_size)
    elif source.is_file() and zipfile.is_zipfile(source):
        _unzip(source, target, max_size)
    elif source.is_file() and source.name.endswith(RDF_NAMES):
        raise NotAPackage(source, "it is only a description; give the folder that contains it and its files")
    elif source.is_file():
        raise NotAPackage(source, "it is a file, but not a zip")
    else:
        raise NotAPackage(source, "there is no such folder or file")
    _bring_rdf_to_top(source, target)


def _copy_folder(source: Path, target: Path, max_size: int) -> None:
    if not _descriptions(source):
        raise NotAPackage(source, f"the folder has no {RDF}")
    count = size = 0
    # Each file is opened once, by its folder's descriptor, so that the size that was checked is what is copied, even if somebody
    # exchanges files and folders for links meanwhile.
    top = source.resolve()
    for folder, _, names, descriptor in os.fwalk(top):  # does not follow links to folders
        for name in names:
            path = Path(folder, name).relative_to(top)
            if _JUNK.search(path.as_posix()):
                continue
            if len(path.parts) > MAX_DEPTH:
                raise NotAPackage(source, f"{shown(path)} lies in more than {MAX_DEPTH} folders")
            with _opened(source, path, name, descriptor) as file:
                bytes_left = os.fstat(file.fileno()).st_size
                count, size = count + 1, size + bytes_left
                _check_bounds(source, count, size, max_size)
                destination = target / path
                destination.parent.mkdir(parents=True, exist_ok=True)
                with open(destination, "xb") as copy:
                    while bytes_left and (part := file.read(min(bytes_left, _CHUNK))):
                        copy.write(part)
                        bytes_left -= len(part)


def _opened(source: Path, path: Path, name: str, folder: int) -> BinaryIO:
    """Open the regular file `name` in the folder with the descriptor `folder`. Raises NotAPackage."""
    try:
        # O_NONBLOCK, because opening a pipe would wait for its other end.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise NotAPackage(source, f"{shown(path)} is not a regular file") from None
        error.filename = str(source / path)
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAPackage(source, f"{shown(path)} is not a regular file")
    return open(descriptor, "rb")


def _unzip(source: Path, target: Path, max_size: int) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            named = [(_name(entry), entry) for entry in archive.infolist()]
            named = [(name, entry) for name, entry in named if not name.endswith("/") and not _JUNK.search(name)]
            entries = dict(named)
            size = sum(entry.file_size for _, entry in named)
            _check_bounds(source, len(named), size, max_size)
            if size > _MAX_EXPANSION * max(source.stat().st_size, 1_000_000):
                raise NotAPackage(source, "its content is far too large for a zip of its size")
            _check_names(source, named)
            for name, entry in entries.items():
                destination = target / name
                destination.parent.mkdir(parents=True, exist_ok=True)
                # If the file system considers two names the same, the second one is refused.
                with archive.open(entry) as compressed, open(destination, "xb") as file:
                    shutil.copyfileobj(compressed, file)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotAPackage(source, "the zip has two entries of the same name") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError, NotImplementedError, RuntimeError, EOFError) as error:
        raise NotAPackage(source, f"the zip cannot be read ({shown(error, 200)})") from error


def _name(entry: zipfile.ZipInfo) -> str:
    """The path of a zip's entry, with `/` between its parts and composed letters, whatever system the zip was made on.

    A flag marks names in UTF-8. Without it, zipfile decodes a name from code page 437, as the standard says; but Finder, among
    others, writes UTF-8 without the flag.
    """
    name = entry.filename
    if not entry.flag_bits & _IS_UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _check_names(source: Path, named: list[tuple[str, zipfile.ZipInfo]]) -> None:
    """Raises NotAPackage for an entry that is not a plain file inside the zip, and for two entries with the same name.

    For descriptions and the store's own files, names that differ only in case are the same; for other files they are not.
    """
    folded = [name.casefold() if name.casefold().rpartition("/")[2] in _UNIQUE else name for name, _ in named]
    if len(set(folded)) < len(folded):
        raise NotAPackage(source, "the zip has two entries of the same name")
    for name, entry in named:
        path = PurePosixPath(name)
        is_of_windows = "\\" in entry.filename and PureWindowsPath(entry.filename).anchor
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if len(path.parts) > MAX_DEPTH:
            raise NotAPackage(source, f"{shown(name)} lies in more than {MAX_DEPTH} folders")
        if not path.parts or path.is_absolute() or is_of_windows or ".." in path.parts or kind not in (0, stat.S_IFREG):
            raise NotAPackage(source, f"the zip has an entry that is not a plain file inside it ({shown(entry.filename)!r})")


def _check_bounds(source: Path, count: int, size: int, max_size: int) -> None:
    if count > _MAX_FILES:
        raise NotAPackage(source, f"it has more than {_MAX_FILES} files")
    if size > max_size:
        raise NotAPackage(source, f"it is larger than {max_size / 1e9:.1f} GB, the limit of BIOENGINE_MAX_PACKAGE_SIZE")


def _bring_rdf_to_top(source: Path, target: Path) -> None:
    """Move the package to the top if it is in a folder within the zip, and rename its description to rdf.yaml."""
    for _ in range(_MAX_FOLDERS):
        items = list(target.iterdir())
        if len(items) != 1 or not items[0].is_dir():
            break
        inner = items[0].rename(target / ".inner")
        for item in inner.iterdir():
            item.rename(target / item.name)
        inner.rmdir()
    ranks = _descriptions(target)
    if not ranks:
        raise NotAPackage(source, f"it has no {RDF}")
    found = ranks[0]
    for file in (file for rank in ranks for file in rank):
        if file.stat().st_size > MAX_SIZE:
            raise NotAPackage(source, f"its description {shown(file.name)} is larger than {MAX_SIZE / 1e6:g} MB")
    content = {file: file.read_bytes() for rank in ranks for file in rank}
    if len({content[file] for file in found}) > 1:
        raise NotAPackage(
            source, f"it has {len(found)} descriptions that differ ({', '.join(shown(file.name) for file in found)})"
        )
    # An older description, with a name of lower priority, stays as an ordinary file that nobody reads.
    for other in [file for file in content if file != found[0] and content[file] == content[found[0]]]:
        other.unlink()
    found[0].rename(target / RDF)
    if _is_ours(target / FILE_NAME):  # a folder of a store is imported again
        for name in MADE:
            remove(target / name)


def _is_ours(manifest: Path) -> bool:
    """Whether a store wrote this file beside a package. The package itself may have a file `model.json`."""
    if not manifest.is_file() or manifest.stat().st_size > _MAX_MANIFEST:
        return False
    try:
        content = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= _SAID_BY_MANIFEST


def _descriptions(folder: Path) -> list[list[Path]]:
    """The descriptions in a folder, grouped by name, in the order of priority of the names."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not _JUNK.search(path.name))
    ranks = ([file for file in files if file.name == name or file.name.endswith(f".{name}")] for name in RDF_NAMES)
    return [rank for rank in ranks if rank]


def read_rdf(folder: Path) -> bytes:
    """The text of the package's description. If it is too large, just enough of it that `reader.read_raw` refuses it."""
    with open(folder / RDF, "rb") as file:
        return file.read(MAX_SIZE + 1)


def hash_files(folder: Path, progress: Callable[[str], None] = lambda name: None) -> dict[str, str]:
    """The SHA-256 of every file in `folder`, by its path within the folder."""
    hashes = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            progress(name)
            with open(file, "rb") as stream:
                hashes[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def verify_hashes(source: Path | str, raw: Any, files: dict[str, str]) -> None:
    """Compare every `{source, sha256}` in a description with the files. Raises NotAPackage."""
    if isinstance(raw, dict):
        name, wanted = raw.get("source"), raw.get("sha256")
        if isinstance(name, str) and name in files and isinstance(wanted, str) and files[name] != wanted.lower():
            raise NotAPackage(
                source,
                f"{shown(name)} is damaged: its SHA-256 is {files[name][:12]}…, but the description says {shown(wanted[:12])}…",
            )
        for value in raw.values():
            verify_hashes(source, value, files)
    elif isinstance(raw, list):
        for value in raw:
            verify_hashes(source, value, files)
