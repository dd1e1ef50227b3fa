"""Tensors by reference: files of a file system in memory that the server and Triton's processes share.

Each request has a folder, under a name that nobody guesses, for as long as it lasts. A large array is written there once, as
NumPy's .npy, and mapped by whoever needs it next: Triton's own protocol copies it at each of its steps. What finds no room
goes as bytes. The runner's side is `bioengine_runner.request.shared`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import mmap
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

# Smaller ones are sent as quickly in the message itself.
LEAST_BYTES = 524_288

_FILE = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")
_MOST_HEADER = 16_384  # bytes


class SharedFolder:
    """The folder of one request."""

    def __init__(self, folder: Path, copies: bool = False) -> None:
        """`copies`: whether arrays are read and not mapped."""
        self._folder = folder
        self._copies = copies
        self._written = 0

    @property
    def name(self) -> str:
        return self._folder.name

    def write(self, array: np.ndarray) -> str | None:
        """The name of a new file that holds `array`; None where it is small or there is no room."""
        if array.nbytes < LEAST_BYTES:
            return None
        self._written += 1
        file = self._folder / f"sent-{self._written}"
        try:
            # Written, not mapped: a mapping for which there is no room kills its process.
            with file.open("xb") as stream:
                np.save(stream, array, allow_pickle=False)
        except OSError:
            file.unlink(missing_ok=True)
            return None
        return file.name

    def read(self, name: object, shape: Sequence[int]) -> np.ndarray:
        """The array in a file; it stays when the folder goes. Raises ValueError, OSError."""
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise ValueError(f"{str(name)[:40]!r} is not the name of a shared tensor")
        # What a model may have put there instead of a file is neither followed nor waited for.
        with open(os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ValueError(f"{name} is not a file")
            data = stream.read() if self._copies else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return _array(data).reshape(shape)


def _array(data: bytes | mmap.mmap) -> np.ndarray:
    """The array of an .npy. Raises ValueError."""
    head = io.BytesIO(data[:_MOST_HEADER])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("not an .npy of version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - head.tell():
        raise ValueError(f"not {shape} of {dtype}")
    return np.frombuffer(data, dtype, offset=head.tell()).reshape(shape, order="F" if fortran else "C")


class SharedTensors:
    """Where the folders are."""

    def __init__(self, root: Path | None, is_own: bool = True) -> None:
        """
        Args:
            root: the folder of folders. None: nothing is shared with this Triton, and all tensors go as bytes.
            is_own: whether whoever writes there has our own rights anyway. Else a file is read and not mapped: to cut off what
                somebody has mapped ends his process.
        """
        self._root = root
        self._copies = not is_own

    def clear(self) -> None:
        """Remove what requests of an earlier server have left."""
        for left in () if self._root is None else self._root.glob("[0-9a-f]" * 32):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()

    @contextlib.contextmanager
    def folder(self) -> Iterator[SharedFolder | None]:
        """A folder for one request."""
        if self._root is None:
            yield None
            return
        folder = self._root / uuid.uuid4().hex
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            logger.warning("Tensors cannot be shared in %s (%s)", self._root, error.strerror)
            yield None
            return
        try:
            yield SharedFolder(folder, self._copies)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
