"""Remove folders whose content may be hostile.

`shutil.rmtree` recurses, and fails with a RecursionError on folders nested a thousand deep; by path, a symbolic link may also
lead it to another folder. Here each folder is opened relative to its parent's descriptor, links are never followed, and nested
folders are moved to the top first, so that neither the depth nor the number of open files grows.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path, patience: float = 60.0, parent: int | None = None) -> bool:
    """Remove a file, a link, or a folder with its content. Returns whether it is gone; never raises OSError.

    Args:
        path: what to remove; relative to `parent`, the descriptor of a folder, if that is given.
        patience: seconds after which the rest is left, because another process may keep adding files.
    """
    end = time.monotonic() + patience
    try:
        if not stat.S_ISDIR(os.stat(path, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(path, dir_fd=parent)
            return True
        with _opened(path, parent) as top:
            while time.monotonic() < end and _step(top, end):
                pass
        os.rmdir(path, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _step(top: int, end: float) -> bool:
    """Remove the content of `top`; the content of its folders is in `top` afterwards. Returns whether anything changed."""
    changed = False
    for name, is_folder in _entries(top):
        if time.monotonic() > end:
            break
        with contextlib.suppress(OSError):
            if is_folder:
                with _opened(name, top) as folder:
                    for inner, is_inner_folder in _entries(folder):
                        with contextlib.suppress(OSError):
                            if is_inner_folder:
                                _open_to_us(inner, folder)
                                os.rename(inner, uuid.uuid4().hex, src_dir_fd=folder, dst_dir_fd=top)
                            else:
                                os.unlink(inner, dir_fd=folder)
                            changed = True
                        if time.monotonic() > end:
                            break
                os.rmdir(name, dir_fd=top)
            else:
                os.unlink(name, dir_fd=top)
            changed = True
    return changed


def _entries(folder: int) -> Iterator[tuple[str, bool]]:
    """The names in a folder, and whether each is a folder itself. Raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name, entry.is_dir(follow_symlinks=False)


@contextlib.contextmanager
def _opened(name: str | Path, parent: int | None) -> Iterator[int]:
    _open_to_us(name, parent)
    descriptor = os.open(name, os.O_RDONLY | _FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_to_us(name: str | Path, parent: int | None) -> None:
    """Open a folder whose mode does not let its owner, this process, read it: the mode is changed. Raises OSError."""
    descriptor = os.open(name, os.O_PATH | _FOLDER, dir_fd=parent)
    try:
        if os.fstat(descriptor).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # the folder itself, even if it was renamed meanwhile
    finally:
        os.close(descriptor)
