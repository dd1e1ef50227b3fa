"""Prevent the removal of old folders in the system's temporary folder, as by systemd-tmpfiles after 10 or 30 days.

A run dir in `$XDG_RUNTIME_DIR` would not be removed by age. But that folder is removed with the user's last session while the
server runs on, holds only a tenth of the memory, and is different in other shells of the user (cron, sudo): two servers would not
notice each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from bioengine_server.triton.plain_names import PlainNames

_INTERVAL = 3600.0  # seconds
_DEEPEST = 5  # levels of folders; models may make any number of levels below
_MAX = 20_000  # files and folders


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`: systemd-tmpfiles does not remove folders that it cannot lock, or their content. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


async def keep_fresh(folder: Path, names: PlainNames) -> None:
    """Update the times of everything in `folder` and in `names` each hour, for clean-up programs that ignore locks.

    Runs until cancelled.
    """
    while True:
        await asyncio.sleep(_INTERVAL)
        for used in (folder, names.folder):
            if used is not None:
                await asyncio.to_thread(touch, used)


def touch(folder: Path) -> None:
    """Set the times of `folder` and of what is in it to now; links are never followed. Never raises OSError."""
    left = _MAX
    with contextlib.suppress(OSError):
        os.utime(folder, follow_symlinks=False)
        for root, folders, files, descriptor in os.fwalk(folder):
            for name in (*folders, *files):
                with contextlib.suppress(OSError):
                    os.utime(name, dir_fd=descriptor, follow_symlinks=False)
            left -= len(folders) + len(files)
            if left < 0:
                return
            if root.removeprefix(str(folder)).count(os.sep) >= _DEEPEST:
                folders.clear()
