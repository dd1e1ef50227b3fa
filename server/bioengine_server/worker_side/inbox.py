"""Where the large arrays of a job go as they arrive: into the folder that the worker's own Triton reads them from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from bioengine_contract.shared_tensors import MIN_BYTES, SharedArray, SharedFolder, SharedTensors, input_file


class Inbox:
    """Of one job. Its folder is made when the first large array arrives."""

    def __init__(self, shared: SharedTensors, held: contextlib.ExitStack) -> None:
        self._shared = shared
        self._held = held
        self._folder: SharedFolder | None = None

    def place(self, number: int, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[SharedArray, BinaryIO] | None:
        """For `workers.parcel.receive`; None for what is small, and where there is no room."""
        if dtype.itemsize * math.prod(shape) < MIN_BYTES:
            return None
        if self._folder is None:
            self._folder = self._held.enter_context(self._shared.folder())
        name = input_file(number)
        file = None if self._folder is None else self._folder.space(name, dtype, shape)
        return None if self._folder is None or file is None else (SharedArray(self._folder, name, dtype, shape), file)


@contextlib.contextmanager
def inbox(shared: SharedTensors) -> Iterator[Inbox]:
    """An inbox, whose arrays are gone when the context ends."""
    with contextlib.ExitStack() as held:
        yield Inbox(shared, held)
