"""The control room's Unix socket, in the run dir, which the server's own user alone can enter."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

NAME = "control"


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short path of the socket in a folder: Linux takes at most 107 bytes (unix(7)), and a run dir may be called anything."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """A socket that listens in a run dir, which is held by this process alone. Raises OSError."""
    (folder / NAME).unlink(missing_ok=True)  # of a server that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        with _short(folder) as path:
            listener.bind(path)
            os.chmod(path, 0o600)
        listener.listen(16)
        try:
            yield listener
        finally:
            (folder / NAME).unlink(missing_ok=True)


def connect(folder: Path, timeout: float) -> socket.socket:
    """A connection to the server that listens in a run dir. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        with _short(folder) as path:
            connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
