"""Take a bioimage.io package from a folder or a zip: copy it and verify its files. Packages are data; nothing in them is run."""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from bioengine_server.errors import NotAPackage
from bioengine_server.store.description import MAX_SIZE
from bioengine_server.store.manifest import FILE_NAME
from bioengine_server.untrusted import shown

RDF = "rdf.yaml"
RDF_NAMES = (RDF, "bioimageio.yaml", "model.yaml")

# Folder of ours beside a stored package's files: what its tests gave.
REPORTS = "reports"

# A zip whose content is many times larger than itself is no package; model weights hardly compress.
_MOST_EXPANSION = 200
_MOST_FILES = 10_000
_CHUNK = 1 << 20  # bytes


def copy_package(source: Path, target: Path, max_size: int) -> None:
    """Copy the regular files of a package folder or zip, `max_size` bytes at most, into the empty folder `target`.

    Raises NotAPackage.
    """
    if source.is_dir():
        _copy_folder(source, target, max_size)
    elif source.is_file() and zipfile.is_zipfile(source):
        _unzip(source, target, max_size)
    elif source.is_file():
        raise NotAPackage(source, "it is a file, and not a zip")
    else:
        raise NotAPackage(source, "there is no such folder or file")
    _bring_rdf_to_top(source, target)


def _copy_folder(source: Path, target: Path, max_size: int) -> None:
    if not any((source / name).is_file() for name in RDF_NAMES):
        raise NotAPackage(source, f"the folder has no {RDF}")
    count = size = 0
    # Each file is opened once, from its folder's descriptor: what is counted is what is copied, also when somebody exchanges
    # files and folders for links meanwhile.
    top = source.resolve()
    for folder, _, names, descriptor in os.fwalk(top):  # does not follow links to folders
        for name in names:
            path = Path(folder, name).relative_to(top)
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
    """The regular file `name` of the folder with the descriptor `folder`. Raises NotAPackage."""
    try:
        # O_NONBLOCK: to open a pipe waits for its other end.
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
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            size = sum(entry.file_size for entry in entries)
            _check_bounds(source, len(entries), size, max_size)
            if size > _MOST_EXPANSION * max(source.stat().st_size, 1_000_000):
                raise NotAPackage(source, "its content is far too large for its size")
            names = [entry.filename.casefold() for entry in entries]
            if len(set(names)) < len(names):
                raise NotAPackage(source, "the zip has two entries of the same name")
            for entry in entries:
                path = PurePosixPath(entry.filename)
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or kind not in (0, stat.S_IFREG):
                    raise NotAPackage(
                        source, f"the zip has an entry that is not a plain file inside it ({shown(entry.filename)!r})"
                    )
                destination = target / path
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as compressed, open(destination, "wb") as file:
                    shutil.copyfileobj(compressed, file)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError, NotImplementedError, RuntimeError, EOFError) as error:
        raise NotAPackage(source, f"the zip cannot be read ({shown(error, 200)})") from error


def _check_bounds(source: Path, count: int, size: int, max_size: int) -> None:
    if count > _MOST_FILES:
        raise NotAPackage(source, f"it has more than {_MOST_FILES} files")
    if size > max_size:
        raise NotAPackage(source, f"it is larger than {max_size / 1e9:.1f} GB, the limit of BIOENGINE_MAX_PACKAGE_SIZE")


def _bring_rdf_to_top(source: Path, target: Path) -> None:
    """Packages may lie in one folder within the zip, and their description may have an older name."""
    content = list(target.iterdir())
    if len(content) == 1 and content[0].is_dir():
        inner = content[0].rename(target / ".inner")
        for item in inner.iterdir():
            item.rename(target / item.name)
        inner.rmdir()
    found = [target / name for name in RDF_NAMES if (target / name).is_file()]
    if not found:
        raise NotAPackage(source, f"it has no {RDF}")
    if len({file.read_bytes() for file in found}) > 1:
        raise NotAPackage(source, f"it has {len(found)} descriptions that differ ({', '.join(file.name for file in found)})")
    for other in found[1:]:
        other.unlink()
    found[0].rename(target / RDF)
    (target / FILE_NAME).unlink(missing_ok=True)  # ours, when a stored folder is imported again
    shutil.rmtree(target / REPORTS, ignore_errors=True)


def read_rdf(folder: Path) -> bytes:
    """The description of the package in `folder`; of one that is too large, enough to be refused by `reader.read_raw`."""
    with open(folder / RDF, "rb") as file:
        return file.read(MAX_SIZE + 1)


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


def verify_hashes(source: Path | str, raw: Any, files: dict[str, str]) -> None:
    """Compare every `{source, sha256}` of a description with the files. Raises NotAPackage."""
    if isinstance(raw, dict):
        name, wanted = raw.get("source"), raw.get("sha256")
        if isinstance(name, str) and name in files and isinstance(wanted, str) and files[name] != wanted.lower():
            raise NotAPackage(
                source,
                f"{shown(name)} is damaged: its SHA-256 is {files[name][:12]}…, the description says {shown(wanted[:12])}…",
            )
        for value in raw.values():
            verify_hashes(source, value, files)
    elif isinstance(raw, list):
        for value in raw:
            verify_hashes(source, value, files)
