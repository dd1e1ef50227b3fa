"""A body that is received completely before its request takes a place: small ones in memory, large ones in an unnamed file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

_IN_MEMORY = 8 << 20  # bytes
_STEP = 1 << 20  # bytes that are written or read at once; for files, in a thread


class Received:
    """Received bytes, to be read once they are complete.

    Use it as a context manager; at its end the bytes are deleted.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the folder for large bodies.
        """
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder))
        self.size = 0

    def __enter__(self) -> Received:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    async def take(self, parts: AsyncIterator[bytes | bytearray]) -> None:
        """Receive all of `parts`. Raises what `parts` raises."""
        pending = bytearray()
        async for part in parts:
            pending += part
            if len(pending) >= _STEP:
                await self._write(pending)
                pending = bytearray()
        await self._write(pending)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the beginning."""
        self._file.seek(0)
        while part := await self._read():
            yield part

    async def _write(self, data: bytearray) -> None:
        self.size += len(data)
        if self.size <= _IN_MEMORY:
            self._file.write(data)
        else:
            await asyncio.to_thread(self._file.write, data)

    async def _read(self) -> bytes:
        return self._file.read(_STEP) if self.size <= _IN_MEMORY else await asyncio.to_thread(self._file.read, _STEP)
