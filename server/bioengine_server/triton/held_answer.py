"""An answer of a Triton that is in memory already."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any


class HeldAnswer:
    """As far as whoever reads Triton's answers needs of `aiohttp.ClientResponse`."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = _Content(content)

    async def json(self, content_type: str | None = None) -> Any:
        """Raises ValueError."""
        return json.loads(await self.content.read())

    def release(self) -> None:
        pass

    close = release


class _Content:
    """Bytes that are read as a stream."""

    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    async def readexactly(self, size: int) -> bytes:
        """Raises IncompleteReadError."""
        part, self._rest = bytes(self._rest[:size]), self._rest[size:]
        if len(part) < size:
            raise asyncio.IncompleteReadError(part, size)
        return part

    async def read(self) -> bytes:
        return await self.readexactly(len(self._rest))

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        while len(self._rest):
            yield await self.readexactly(min(size, len(self._rest)))

    def at_eof(self) -> bool:
        return not len(self._rest)
