"""Write files atomically: first to a temporary file with a random name in the same folder, which is then renamed."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o666, replace: bool = True) -> Iterator[BinaryIO]:
    """A new file, which becomes `path` when the context ends without an error; after an error it is removed.

    Raises OSError; FileExistsError if `path` exists and may not be replaced.

    Args:
        path: the path of the file.
        mode: the mode of the file, further limited by the process's umask.
        replace: whether an existing file may be replaced.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        # Exclusive, because other users may write to the folder and create a link with this name.
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
    """Rename a file to a name that does not exist yet. Raises FileExistsError."""
    try:
        os.link(source, target)  # unlike a rename, this fails if the name exists meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(source, target)
