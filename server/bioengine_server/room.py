"""Room on disks: whether there is enough to work, and whether an error says that there is none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEGABYTE = 1 << 20


def is_full(error: OSError) -> bool:
    """Whether it says that a disk, or the user's share of it, is full."""
    return error.errno in _FULL


def lack_of_room(folder: Path, least: int) -> str | None:
    """What `folder` lacks, as the end of a sentence, where fewer than `least` bytes, or no files, can be written there.

    Raises OSError.
    """
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < least:
        return f"is full ({free // _MEGABYTE} MB free, {-(-least // _MEGABYTE)} MB are needed)"
    if found.f_files and not found.f_favail:
        return "is full (no more files can be made there)"
    return None
