"""Which clients others may know of, across workspaces: those that offer something to all, and those that have called there.

Whether anybody else is connected is nobody's business outside of its workspace: it is neither called nor found from there.
"""

from __future__ import annotations

from collections.abc import Callable

_MOST_ASKED = 1000  # clients of other workspaces that one client has called last, and that may call its functions

_SWEPT_FROM = 1000  # clients that are known, at least

PUBLIC = "public"


class Openness:
    """Of the clients that are connected, `<workspace>/<client id>`."""

    def __init__(self) -> None:
        self._offering: set[str] = set()
        self._asked: dict[str, dict[str, None]] = {}
        self._is_connected: Callable[[str], bool] = lambda client: True
        self._most = _SWEPT_FROM

    def watch(self, is_connected: Callable[[str], bool]) -> None:
        """Forget clients also that left while they were answered. `is_connected(client)` is Hypha's own answer."""
        self._is_connected = is_connected

    def offers(self, client: str) -> None:
        """A client offers something to others than those of its workspace."""
        self._offering.add(client)
        self._sweep()

    def asks(self, client: str, other: str) -> None:
        """A client calls another one, or has found a service of it, which may call the client's functions then."""
        if _workspace(client) == _workspace(other):
            return
        asked = self._asked.setdefault(client, {})
        asked.pop(other, None)
        asked[other] = None
        if len(asked) > _MOST_ASKED:
            del asked[next(iter(asked))]
        self._sweep()

    def forget(self, client: str) -> None:
        """A client has left."""
        self._offering.discard(client)
        self._asked.pop(client, None)

    def is_open(self, client: str, to: str) -> bool:
        """Whether a client may know of another one, `client`, if that is connected."""
        if is_reached(_workspace(client), _workspace(to)):
            return True
        return client in self._offering or to in self._asked.get(client, ())

    def _sweep(self) -> None:
        if len(self._offering) + len(self._asked) <= self._most:
            return
        for client in {*self._offering, *self._asked}:
            if not self._is_connected(client):
                self.forget(client)
        self._most = max(_SWEPT_FROM, 2 * (len(self._offering) + len(self._asked)))


def is_reached(workspace: str, own: str) -> bool:
    """Whether a client of the workspace `own` may know who is in another."""
    return workspace in (own, PUBLIC, "*")


def _workspace(client: str) -> str:
    return client.partition("/")[0]


openness = Openness()
"""Of this process's Hypha."""
