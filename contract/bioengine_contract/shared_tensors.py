"""Tensors by reference: files of a file system in memory that the server and Triton's processes share.

Each request has a folder, under a name that nobody guesses, for as long as it lasts. A large array is written there once, as
NumPy's .npy, and not copied at each step of Triton's own protocol. What finds no room goes as bytes.

The inference request names the folder and the files of its inputs in its parameter `shared`; in place of such an input goes a
placeholder. The model's process answers in the same way: a large output is a file in the folder, under the name that its number
gives it.

The process writes there how far it is in an image that goes in tiles (`progress`), and ends between two of them where the server
has left the file `stop`.

A model may do with these folders what it likes. So the server opens them by descriptors, where links lead nowhere, and reads
files: to cut off what somebody has mapped ends his process. A model's process maps what the server has written.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import stat
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np

from bioengine_contract.removal import remove

logger = logging.getLogger(__name__)

PARAMETER = "shared"
"""Of Triton's inference request: `{"folder": name, "inputs": [file or None, ...]}` as JSON."""

MIN_BYTES = 524_288
"""Smaller tensors are sent as quickly in the message itself."""

_FOLDER_NAME = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(r"(?:input|output)-[0-9]{1,6}|progress|stop")
_PROGRESS, _STOP = "progress", "stop"
_TILES = re.compile(rb"([0-9]{1,9}) ([0-9]{1,9})")
_MAX_HEADER = 16_384  # bytes
_MAX_BYTES = 8 << 30  # of all files that are read for one request

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVAL_TIMEOUT = 0.2  # seconds for which a request waits until its folder has gone; a model may have filled it


def input_file(number: int) -> str:
    return f"input-{number}"


def output_file(number: int) -> str:
    return f"output-{number}"


class SharedFolder:
    """The folder of one request, as one of its two sides has opened it."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._left = _MAX_BYTES

    def write(self, array: np.ndarray, name: str) -> bool:
        """Have the file `name` hold `array`; False, and no file, where there is no room."""
        self.remove(name)  # of an earlier attempt
        try:
            # Written, not mapped: a mapping for which there is no room kills its process.
            with open(self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as stream:
                np.save(stream, array, allow_pickle=False)
        except OSError:
            self.remove(name)
            return False
        return True

    def space(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> BinaryIO | None:
        """A new file `name`, to which the values of an array are to be written in C order; None, and no file, without room."""
        head = io.BytesIO()
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, header)
        try:
            stream = open(self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0)
        except OSError:
            return None
        try:
            os.posix_fallocate(stream.fileno(), 0, head.tell() + dtype.itemsize * math.prod(shape))
            stream.write(head.getbuffer())
        except OSError:
            stream.close()
            self.remove(name)
            return None
        return stream

    def remove(self, name: str) -> None:
        """Remove a file, such as one of an earlier attempt."""
        with contextlib.suppress(OSError):
            os.unlink(self._checked(name), dir_fd=self._descriptor)

    def has(self, name: str) -> bool:
        """Whether there is something of this name."""
        try:
            os.stat(self._checked(name), dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def read(self, name: str) -> np.ndarray:
        """The array in a file, in our own memory. Raises ValueError, OSError."""
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
            return _array(stream, found.st_size)

    def tell_tile(self, number: int, of: int) -> None:
        """Say which tile of so many is worked on."""
        with contextlib.suppress(OSError), open(self._open(_PROGRESS, os.O_WRONLY | os.O_CREAT), "wb") as stream:
            stream.write(b"%d %d" % (number, of))  # never shorter than before

    def tile(self) -> tuple[int, int] | None:
        """Which tile of how many is worked on, where that was said."""
        try:
            descriptor = self._open(_PROGRESS, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            found = _TILES.fullmatch(os.read(descriptor, 32))
        except OSError:  # whatever a model has put there
            return None
        finally:
            os.close(descriptor)
        return (int(found[1]), int(found[2])) if found else None

    def stop(self) -> None:
        """Have the model's process end its work on this request before the next tile."""
        with contextlib.suppress(OSError):
            os.close(self._open(_STOP, os.O_WRONLY | os.O_CREAT))

    def is_stopped(self) -> bool:
        return self.has(_STOP)

    def map(self, name: str) -> np.ndarray:
        """The array in a file that the server has written, mapped: changes of it stay with us. Raises ValueError, OSError."""
        with open(self._open(name, os.O_RDONLY), "rb") as stream:
            shape, is_fortran, dtype, start = _header(stream, os.fstat(stream.fileno()).st_size)
            return np.memmap(stream, dtype, "c", start, shape, "F" if is_fortran else "C")

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self, name: str, flags: int) -> int:
        return os.open(self._checked(name), flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode=0o600, dir_fd=self._descriptor)

    @staticmethod
    def _checked(name: object) -> str:
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{str(name)[:40]!r} is not the name of a shared tensor")
        return name


@dataclass(frozen=True)
class SharedArray:
    """An input that a file of its request's folder holds already, and no memory of ours. `dtype`, `shape`: of its values."""

    folder: SharedFolder
    file: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def read(self) -> np.ndarray:
        """Its values, in memory. Raises ValueError, OSError."""
        return self.folder.read(self.file)


class SharedInputs:
    """The inputs of a request of which some are shared: what goes through Triton in their place, and the parameter for it."""

    def __init__(self, folder: SharedFolder | None, arrays: Sequence[np.ndarray | SharedArray | None]) -> None:
        """Have all of them in `folder` where one is large, so that the batches of their placeholders are alike.

        Args:
            folder: of the request; None: nothing is shared.
            arrays: the inputs; None for one that is left out. Those that are shared already are in `folder`.

        Raises ValueError or OSError where one that is shared has to go as bytes after all, and cannot be read.
        """
        self._folder = folder
        self._files: list[str | None] = [None] * len(arrays)
        given = [(number, array) for number, array in enumerate(arrays) if array is not None]
        is_shared = folder is not None and any(array.nbytes >= MIN_BYTES for _, array in given)
        if folder is not None and is_shared and all(_is_in(folder, array, input_file(number)) for number, array in given):
            for number, array in given:
                self._files[number] = array.file if isinstance(array, SharedArray) else input_file(number)
            self.arrays = [None if array is None else placeholder(array) for array in arrays]
        else:
            self.arrays = [array.read() if isinstance(array, SharedArray) else array for array in arrays]

    @property
    def parameters(self) -> dict[str, str]:
        """Parameters of the inference request; also where all inputs are small, since an output may be large."""
        if self._folder is None:
            return {}
        return {PARAMETER: json.dumps({"folder": self._folder.name, "inputs": self._files})}


def _is_in(folder: SharedFolder, array: np.ndarray | SharedArray, name: str) -> bool:
    """Have `folder` hold `array`; False where there is no room."""
    return isinstance(array, SharedArray) or folder.write(array, name)


def placeholder(array: np.ndarray | SharedArray) -> np.ndarray:
    """What goes through Triton in place of an array that is shared: as many axes, and next to nothing in it.

    Its size follows from the array's shape, since Triton batches requests whose inputs have the same shape.
    """
    length = 1 + crc32(repr(array.shape[1:]).encode()) % 1000
    return np.zeros((*[1] * (len(array.shape) - 1), length), array.dtype)


@contextlib.contextmanager
def opened_folder(root: Path | None, name: object) -> Iterator[SharedFolder | None]:
    """The folder that a request names, for its model's process; None where there is none of this name."""
    folder = None
    if root is not None and isinstance(name, str) and _FOLDER_NAME.fullmatch(name):
        with contextlib.suppress(OSError):
            folder = SharedFolder(name, os.open(root / name, _FOLDER))
    try:
        yield folder
    finally:
        if folder is not None:
            folder.close()


class SharedTensors:
    """Where the server makes the folders."""

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


def _array(stream: BinaryIO, size: int) -> np.ndarray:
    """The array of an .npy. Raises ValueError.

    Args:
        stream: a file at its beginning.
        size: its bytes.
    """
    shape, is_fortran, dtype, start = _header(stream, size)
    stream.seek(start)
    data = stream.read(size - start)
    if len(data) != size - start:
        raise ValueError("cut off while it was read")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _header(stream: BinaryIO, size: int) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order and dtype of the array of an .npy of `size` bytes, and where its values begin. Raises ValueError."""
    head = io.BytesIO(stream.read(_MAX_HEADER))
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("not an .npy of version 1.0")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(head)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - head.tell():
        raise ValueError(f"not {shape} of {dtype}")
    return shape, is_fortran, dtype, head.tell()


def _remove(name: str, parent: int) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=parent)  # most have nothing in them
        return
    if not remove(Path(name), _REMOVAL_TIMEOUT, parent):
        # Nobody waits for the rest.
        kept = os.dup(parent)

        def finish() -> None:
            remove(Path(name), parent=kept)
            os.close(kept)

        threading.Thread(target=finish, daemon=True).start()
