"""Limit the memory that the bodies of all requests take together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bioengine_contract.machine import machine_memory

from bioengine_server.http.errors import BodiesTooLarge

Take = Callable[[int], None]
"""Counts this many more bytes of a body. Raises BodiesTooLarge."""


class BodyMemory:
    """The number of body bytes that all requests hold in memory now."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    @classmethod
    def beside(cls, largest: int) -> BodyMemory:
        """Room for two of the largest requests, but for no more than half of the machine's memory; for one in any case."""
        return cls(max(largest, min(2 * largest, machine_memory() // 2)))

    @contextlib.contextmanager
    def share(self) -> Iterator[Take]:
        """Count the bytes of one request until the end of the context."""
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self.taken + size > self._most:
                raise BodiesTooLarge(self._most)
            own += size
            self.taken += size

        try:
            yield take
        finally:
            self.taken -= own
