"""Tensors by reference: files of a file system in memory that the server and Triton's processes share.

Each request has a folder, under a name that nobody guesses, for as long as it lasts. A large array is written there once, as
NumPy's .npy, and not copied at each step of Triton's own protocol. What finds no room goes as bytes. The runner's side is
`bioengine_runner.request.shared`.

A model may do with these folders what it likes. So they are opened by descriptors, where links lead nowhere, and files are read,
not mapped: to cut off what somebody has mapped ends his process.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import stat
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bioengine_server.removal import remove

logger = logging.getLogger(__name__)

# Smaller ones are sent as quickly in the message itself.
LEAST_BYTES = 524_288

_FILE = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")
_MOST_HEADER = 16_384  # bytes
# Of all files that are read for one request.
_MOST_BYTES = 8 << 30

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Seconds for which a request waits until its folder has gone; a model may have filled it.
_REMOVAL_PATIENCE = 0.2


class SharedFolder:
    """The folder of one request."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._written = 0
        self._left = _MOST_BYTES

    def write(self, array: np.ndarray) -> str | None:
        """The name of a new file that holds `array`; None where it is small or there is no room."""
        if array.nbytes < LEAST_BYTES:
            return None
        self._written += 1
        name = f"sent-{self._written}"
        try:
            # Written, not mapped: a mapping for which there is no room kills its process.
            with open(self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as stream:
                np.save(stream, array, allow_pickle=False)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._descriptor)
            return None
        return name

    def read(self, name: object, shape: Sequence[int]) -> np.ndarray:
        """The array in a file, in our own memory. Raises ValueError, OSError."""
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise ValueError(f"{str(name)[:40]!r} is not the name of a shared tensor")
        # What a model may have put there instead of a file is neither followed nor waited for.
        descriptor = self._open(name, os.O_RDONLY | os.O_NONBLOCK)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise ValueError(f"{name} is not a file")
        with open(descriptor, "rb") as stream:
            self._left -= found.st_size
            # A file with holes announces more than there is memory for.
            if self._left < 0 or found.st_blocks * 512 < found.st_size:
                raise ValueError(f"{name} is too large")
            return _array(stream, found.st_size).reshape(shape)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode=0o600, dir_fd=self._descriptor)


def _array(stream: BinaryIO, size: int) -> np.ndarray:
    """The array of an .npy. Raises ValueError.

    Args:
        stream: a file at its beginning.
        size: its bytes.
    """
    head = io.BytesIO(stream.read(_MOST_HEADER))
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("not an .npy of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    announced = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or announced != size - head.tell():
        raise ValueError(f"not {shape} of {dtype}")
    stream.seek(head.tell())
    data = stream.read(announced)
    if len(data) != announced:
        raise ValueError("cut off while it was read")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class SharedTensors:
    """Where the folders are."""

    def __init__(self, root: Path | None, is_own: bool = True) -> None:
        """
        Args:
            root: the folder of folders. None: nothing is shared with this Triton, and all tensors go as bytes.
            is_own: whether our own user has made it; what anybody else puts in its place is not used then.
        """
        self._root = root
        self._is_own = is_own

    def clear(self) -> None:
        """Remove what requests of an earlier server have left."""
        for left in () if self._root is None else self._root.glob("[0-9a-f]" * 32):
            remove(left)

    @contextlib.contextmanager
    def folder(self) -> Iterator[SharedFolder | None]:
        """A folder for one request."""
        with contextlib.ExitStack() as opened:
            yield None if self._root is None else self._new_folder(self._root, opened)

    def _new_folder(self, root: Path, opened: contextlib.ExitStack) -> SharedFolder | None:
        """A new folder, which goes with `opened`; None where there can be none."""
        name = uuid.uuid4().hex
        try:
            # Models write beside it: they may have put a link in its place.
            parent = os.open(root, _FOLDER)
            opened.callback(os.close, parent)
            if self._is_own and os.fstat(parent).st_uid != os.geteuid():
                logger.warning("Tensors cannot be shared in %s (it belongs to somebody else)", root)
                return None
            os.mkdir(name, mode=0o700, dir_fd=parent)
            opened.callback(_remove, name, parent)
            descriptor = os.open(name, _FOLDER, dir_fd=parent)
            opened.callback(os.close, descriptor)
        except OSError as error:
            logger.warning("Tensors cannot be shared in %s (%s)", root, error.strerror)
            return None
        return SharedFolder(name, descriptor)


def _remove(name: str, parent: int) -> None:
    if not remove(Path(name), _REMOVAL_PATIENCE, parent):
        # Nobody waits for the rest.
        kept = os.dup(parent)

        def finish() -> None:
            remove(Path(name), parent=kept)
            os.close(kept)

        threading.Thread(target=finish, daemon=True).start()
