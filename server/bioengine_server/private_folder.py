"""Files and folders that only this user can open, also in places where other users can create folders, such as /tmp.

Kubernetes mounts volumes that belong to root and, with `fsGroup`, to a group of the pod's user: its files are open to that group.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from bioengine_server.errors import UnsafeFolder


def others_may(found: os.stat_result) -> int:
    """What other users may do with a file or folder, as the bits of its mode; not its group, if that is this user's own."""
    return found.st_mode & (0o007 if is_own_group(found.st_gid) else 0o077)


def is_own_group(number: int) -> bool:
    """Whether a group has the number of this user, and nobody else in it."""
    user = os.getuid()
    if number != user:
        return False
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(number).gr_mem}
    except KeyError:  # no such group, as in a container; or a member who is no user
        members = set()
    return members | {each.pw_uid for each in pwd.getpwall() if each.pw_gid == number} <= {user}


def is_private(folder: Path) -> bool:
    """Whether a path is a folder, not a link, that belongs to this user and that nobody else can enter."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    # In a folder of Kubernetes', new folders have the set-group-ID bit too.
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o777 == 0o700


def is_ours(folder: Path) -> bool:
    """Whether a folder belongs to this user, or was mounted by root for this user's own group. Raises OSError."""
    found = folder.lstat()
    is_given = found.st_uid == 0 and is_own_group(found.st_gid) and found.st_mode & 0o070 == 0o070 and os.path.ismount(folder)
    return found.st_uid == os.getuid() or is_given


def make_private(folder: Path) -> None:
    """Create a folder that only its owner can enter. Raises UnsafeFolder if another user may have created it before."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise UnsafeFolder(folder, "is not a folder") from None
        if not is_ours(folder):
            raise UnsafeFolder(folder, "belongs to another user") from None
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o700)
