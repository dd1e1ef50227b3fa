"""A bounded collection of the services that a client has used last."""

from __future__ import annotations


class Newest:
    """Names and sizes, in the order of their last use."""

    def __init__(self, most: int, largest: int) -> None:
        """
        Args:
            most: the largest number of names.
            largest: the largest total size, unless the newest one alone is larger.
        """
        self._most = most
        self._largest = largest
        self._sizes: dict[str, int] = {}

    def keep(self, name: str, size: int) -> list[str]:
        """Add a name as the newest. Returns the names that are removed for it, oldest first."""
        self._sizes.pop(name, None)
        self._sizes[name] = size
        gone = []
        while len(self._sizes) > 1 and (len(self._sizes) > self._most or sum(self._sizes.values()) > self._largest):
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            gone.append(oldest)
        return gone
