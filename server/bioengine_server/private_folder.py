"""Private folders in places where other users can create folders too, such as /tmp."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bioengine_server.errors import UnsafeFolder


def is_private(folder: Path) -> bool:
    """Whether a path is a folder, not a link, that belongs to this user and that nobody else can enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can enter. Raises UnsafeFolder if another user may have created it before."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UnsafeFolder(folder, "is not a folder") from None
        if found.st_uid != os.getuid():
            raise UnsafeFolder(folder, "belongs to another user") from None
        folder.chmod(0o700)
