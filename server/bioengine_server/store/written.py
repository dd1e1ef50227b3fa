"""How much a hostile process writes to its folder, which no limit of the kernel bounds as a whole.

What is in the folder is counted. Files that have lost their names are not in it, and folders may be renamed while they are looked
through: so the room on the disk is watched as well.
"""

from __future__ import annotations

import os
from pathlib import Path

_MAX_BYTES = 8 << 30
_MAX_FILES = 2000  # and folders
_MAX_DEPTH = 20  # nested folders
_MAX_INODES = 200_000  # by which the disk may lose, whoever takes them


class WroteTooMuch(Exception):
    """The message says what, as the second half of a sentence."""


class Written:
    """Watches one folder, from before the process starts. It may take three quarters of the room on the disk, and 8 GB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        room, self._inodes = _left(folder)
        self._most = min(_MAX_BYTES, room * 3 // 4)
        self._least_room = room - self._most

    def check(self) -> None:
        """Raises WroteTooMuch."""
        count = size = 0
        for path, folders, names, descriptor in os.fwalk(self._folder, onerror=_unless_gone):
            count += len(folders) + len(names)
            if path.removeprefix(str(self._folder)).count(os.sep) > _MAX_DEPTH:
                raise WroteTooMuch(f"its code made more than {_MAX_DEPTH} nested folders")
            for name in names:
                try:
                    size += os.lstat(name, dir_fd=descriptor).st_size
                except OSError:
                    continue  # removed meanwhile
            self._check(count, size)
        room, inodes = _left(self._folder)
        self._check(0, 0 if room >= self._least_room else self._most + 1)
        self._check(_MAX_FILES + 1 if inodes < self._inodes - _MAX_INODES else 0, 0)

    def _check(self, count: int, size: int) -> None:
        if count > _MAX_FILES or size > self._most:
            raise WroteTooMuch(f"its code wrote more than {_MAX_FILES} files, or {self._most / 1e9:.1f} GB")


def _left(folder: Path) -> tuple[int, int]:
    """The bytes and the files for which the disk has room; file systems without a limit of files have 0 of them."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize, disk.f_favail


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise WroteTooMuch(f"its code made a folder that cannot be looked into ({error.strerror})")
