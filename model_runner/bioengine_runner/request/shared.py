"""Tensors by reference: files of a file system in memory that the server and Triton's processes share.

The server makes a folder for each request, under a name that nobody guesses, and names it in the request (`"shared"`). Whoever
has a large array for the next one writes it there once, as NumPy's .npy; the next one maps it. What finds no room goes as bytes.
The server's side is `bioengine_server.triton.shared`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

# Smaller ones are sent as quickly in the message itself.
LEAST_BYTES = 524_288

_FOLDER = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")


class SharedFolder:
    """The folder of one request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def named(cls, root: Path | None, name: object) -> SharedFolder | None:
        """The folder that a request names; None where there is none of this name."""
        if root is None or not isinstance(name, str) or not _FOLDER.fullmatch(name) or not (root / name).is_dir():
            return None
        return cls(root / name)

    @property
    def name(self) -> str:
        return self._folder.name

    def write(self, array: np.ndarray, name: str) -> str | None:
        """Have the file `name` hold `array`. Returns the name; None, and no file, where it is small or there is no room."""
        file = self._path(name)
        file.unlink(missing_ok=True)  # of an earlier attempt
        if array.nbytes < LEAST_BYTES:
            return None
        try:
            # Written, not mapped: a mapping for which there is no room kills its process.
            with file.open("xb") as stream:
                np.save(stream, array, allow_pickle=False)
        except OSError:
            file.unlink(missing_ok=True)
            return None
        return name

    def read(self, name: object, shape: Sequence[int] | None = None) -> np.ndarray:
        """The array in a file, mapped; what is written to it stays with the reader. Raises ValueError, OSError."""
        array: np.ndarray = np.load(self._path(name), mmap_mode="c", allow_pickle=False)
        return array if shape is None else array.reshape(shape)

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def holder(self, array: np.ndarray) -> str | None:
        """The file that has all of this array and nothing else, in whatever shape; None where there is none."""
        if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
            return None
        file = Path(array.filename)
        return file.name if file.parent == self._folder and array.offset + array.nbytes == file.stat().st_size else None

    def _path(self, name: object) -> Path:
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise ValueError(f"{str(name)[:40]!r} is not the name of a shared tensor")
        return self._folder / name


def stand_in(array: np.ndarray) -> np.ndarray:
    """What goes through Triton in place of an array that is shared: as many axes, and next to nothing in it.

    Its size follows from the array's shape, since Triton batches requests whose inputs have the same shape.
    """
    size = 1 + crc32(repr(array.shape[1:]).encode()) % 1000
    return np.zeros((*[1] * (array.ndim - 1), size), array.dtype)
