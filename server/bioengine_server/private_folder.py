"""Folders of ours in places where anybody may make some."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bioengine_server.errors import UnsafeFolder


def is_private(folder: Path) -> bool:
    """Whether it is a folder, and no link to one, that is ours and that only we can enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can enter, also where anybody may have made it before us. Raises UnsafeFolder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UnsafeFolder(folder, "is not a folder") from None
        if found.st_uid != os.getuid():
            raise UnsafeFolder(folder, "belongs to somebody else") from None
        folder.chmod(0o700)
