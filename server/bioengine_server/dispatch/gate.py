"""A gate in front of one model: many pass side by side, or one alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Who passes alone waits for those inside to leave, and keeps others outside meanwhile."""

    def __init__(self) -> None:
        self._entrance = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()
        self.inside = 0
        """How many are inside."""

    @contextlib.asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Be inside together with others."""
        async with self._entrance:
            self._enter()
        try:
            yield
        finally:
            self._leave()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside while nobody else is."""
        async with self._entrance:
            await self._empty.wait()
            self._enter()
            try:
                yield
            finally:
                self._leave()

    def _enter(self) -> None:
        self.inside += 1
        self._empty.clear()

    def _leave(self) -> None:
        self.inside -= 1
        if not self.inside:
            self._empty.set()
