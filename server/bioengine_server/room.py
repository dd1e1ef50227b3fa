"""Free space on disks: whether it is enough, and whether an error says that a disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEGABYTE = 1 << 20


def is_full(error: OSError) -> bool:
    """Whether an OSError says that a disk, or the user's quota, is full."""
    return error.errno in _FULL


def lack_of_room(folder: Path, least: int) -> str | None:
    """If fewer than `least` bytes, or no further files, can be written to `folder`, say so as the second half of a sentence.

    Raises OSError.
    """
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < least:
        return f"is full ({free // _MEGABYTE} MB free, {-(-least // _MEGABYTE)} MB are needed)"
    if found.f_files and not found.f_favail:
        return "is full (no more files can be created there)"
    return None
