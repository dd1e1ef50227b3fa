"""The newest of what a client has found, within bounds."""

from __future__ import annotations


class Newest:
    """Names and sizes, in the order in which they were kept last."""

    def __init__(self, most: int, largest: int) -> None:
        """
        Args:
            most: how many are kept.
            largest: what they have together, unless the newest alone has more.
        """
        self._most = most
        self._largest = largest
        self._sizes: dict[str, int] = {}

    def keep(self, name: str, size: int) -> list[str]:
        """Keep one as the newest. Returns the names of those that have to go for it, oldest first."""
        self._sizes.pop(name, None)
        self._sizes[name] = size
        gone = []
        while len(self._sizes) > 1 and (len(self._sizes) > self._most or sum(self._sizes.values()) > self._largest):
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            gone.append(oldest)
        return gone
