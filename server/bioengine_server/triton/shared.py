"""Tensors by reference: files of a file system in memory that the server and Triton's processes share.

Each request has a folder, under a name that nobody guesses, for as long as it lasts. A large array is written there once, as
NumPy's .npy, and mapped by whoever needs it next: Triton's own protocol copies it at each of its steps. What finds no room
goes as bytes. The runner's side is `bioengine_runner.request.shared`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

# Smaller ones are sent as quickly in the message itself.
_LEAST_BYTES = 65_536

_FILE = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")


class SharedFolder:
    """The folder of one request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = 0

    @property
    def name(self) -> str:
        return self._folder.name

    def write(self, array: np.ndarray) -> str | None:
        """The name of a new file that holds `array`; None where it is small or there is no room."""
        if array.nbytes < _LEAST_BYTES:
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
        """The array in a file, mapped: it stays when the folder goes. Raises ValueError, OSError."""
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise ValueError(f"{str(name)[:40]!r} is not the name of a shared tensor")
        return np.asarray(np.load(self._folder / name, mmap_mode="r", allow_pickle=False)).reshape(shape)


class SharedTensors:
    """Where the folders are. `root` None: nothing is shared with this Triton, and all tensors go as bytes."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def clear(self) -> None:
        """Remove what requests of an earlier server have left."""
        for folder in () if self._root is None else self._root.glob("[0-9a-f]" * 32):
            shutil.rmtree(folder, ignore_errors=True)

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
            yield SharedFolder(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
