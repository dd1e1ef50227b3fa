"""Files that are written whole or not at all: beside their place, under a name that nobody can have taken, and then renamed."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o666, replace: bool = True) -> Iterator[BinaryIO]:
    """A new file, which takes the place of `path` when the context ends without an error; after one, nothing is left of it.

    Raises OSError, and FileExistsError where `path` is there and is not to be replaced.

    Args:
        path: of the file.
        mode: of the file, which the process's umask narrows.
        replace: whether it takes the place of another.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        # Exclusive: the folder may be anybody's, and have a link of this name.
        with open(temporary, "x+b", opener=lambda name, flags: os.open(name, flags, mode)) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_to_new(source: Path, target: Path) -> None:
    """Give a file a name that no other has. Raises FileExistsError."""
    try:
        os.link(source, target)  # unlike a rename, it fails where the name is taken meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(source, target)
