"""Output files of commands: check where they may be, and replace existing files only if the user allows it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bioengine_contract.errors import BioEngineError

from bioengine_server.untrusted import shown
from bioengine_server.whole_file import whole_file

_SHOWN_FILES = 5


class OutputExists(BioEngineError):
    """Output files already exist, and --overwrite was not given."""

    code = "output_exists"

    def __init__(self, files: list[Path]) -> None:
        names = ", ".join(shown(file, 300) for file in files[:_SHOWN_FILES])
        more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
        exist, them = ("exists", "it") if len(files) == 1 else ("exist", "them")
        super().__init__(f"{names}{more} already {exist}. Choose another output, or add --overwrite to replace {them}.")


class OutputNotPossible(BioEngineError):
    """Nothing can be written at this path."""

    code = "output_not_possible"

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{shown(file, 300)} cannot be written: {reason}. Nothing was run.")


def check_outputs(files: list[Path], overwrite: bool) -> None:
    """Check whether files can be written, as far as possible before there is content to write.

    Raises OutputExists, OutputNotPossible.
    """
    existing = []
    for file in files:
        try:
            mode = file.stat().st_mode if file.exists() else None
            if mode is None and file.is_symlink():
                raise OutputNotPossible(file, f"it is a link to {os.readlink(file)}, which does not exist")
            folder = _nearest(file.parent)
        except OSError as error:
            raise OutputNotPossible(file, error.strerror or str(error)) from error
        if mode is not None and _keeps_nothing(mode):
            continue
        if mode is not None and not stat.S_ISREG(mode):
            raise OutputNotPossible(file, "it is a folder" if stat.S_ISDIR(mode) else "it exists, but is not a file")
        if not folder.is_dir():
            raise OutputNotPossible(file, f"{folder} is a file, not a folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputNotPossible(file, f"you may not write to the folder {folder}")
        if mode is not None:
            existing.append(file)
    if existing and not overwrite:
        raise OutputExists(existing)


@contextlib.contextmanager
def output_file(target: Path, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A new file to write. It becomes `target` when the context ends without an error, else it is removed (`whole_file`).

    Neither a full disk nor Ctrl-C leaves an empty or incomplete file, or damages a file that is replaced. If `target` is a
    symbolic link, the file that it leads to is replaced. The folder is created. Pipes and devices such as /dev/stdout are
    written directly.

    Raises OutputExists if `target` exists and may not be replaced, or OSError.
    """
    if target.exists() and _keeps_nothing(target.stat().st_mode):
        with open(target, "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(target, replace=overwrite) as file:
            yield file
            if overwrite:
                with contextlib.suppress(OSError):
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
    except FileExistsError:
        raise OutputExists([target]) from None


def _keeps_nothing(mode: int) -> bool:
    """Whether a path is a pipe or a terminal, which has no content to overwrite."""
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest existing folder above it."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder
