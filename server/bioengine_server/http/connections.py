"""How many connections may be open: of one peer, and in all. Those that wait for their client make room for new ones.

A client that opens connections and sends half a request on each keeps nobody out.
"""

from __future__ import annotations

import ipaddress
import logging
import resource
import time
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

logger = logging.getLogger(__name__)

State = Literal["half-open", "unauthenticated", "idle", "uploading", "busy"]
"""
half-open        its client owes it a request's header
unauthenticated  a websocket whose client has not said yet who it is
idle             it is kept for a next request
uploading        its client owes it the rest of a request's body
busy             a request runs, or it is a websocket whose client has said who it is
"""

# Seconds without a byte after which a connection may end for another one. Connections in other states never do.
_EVICTED_AFTER: Mapping[State, float] = {"half-open": 0, "unauthenticated": 5, "idle": 0, "uploading": 5}

_SPARE = 8  # connections of a peer, beside those that it may have, for requests without a body: such as for the server's health

_ENOUGH_FILES = 65_536
_OTHER_FILES = 512  # that the server opens beside connections of clients
_NETWORK = 64  # bits of an IPv6 address that one peer has: the others it chooses


class Transport(Protocol):
    """What is needed of a connection."""

    def abort(self) -> None: ...


class _Since(NamedTuple):
    state: State
    time: float  # of the last byte


class Connections:
    """The open connections, by peer, oldest first."""

    def __init__(self, most_of_peer: int, most: int) -> None:
        """
        Args:
            most_of_peer: that one peer may have.
            most: that all may have.
        """
        self._most_of_peer = most_of_peer
        self._most = most
        self._peers: dict[str, dict[Transport, _Since]] = {}
        self._peer_of: dict[Transport, str] = {}

    def __len__(self) -> int:
        return len(self._peer_of)

    def open(self, transport: Transport, address: str) -> bool:
        """Count a new connection, for which an older one may have to end; False where there is no room for it.

        Args:
            transport: of the connection.
            address: at its other end.
        """
        peer = peer_of(address)
        own = self._peers.get(peer, {})
        if len(own) >= self._most_of_peer and not self._make_room(own) and len(own) >= self._most_of_peer + _SPARE:
            return False
        if len(self) >= self._most and not self._make_room(max(self._peers.values(), key=len)):
            return False
        self._peers.setdefault(peer, {})[transport] = _Since("half-open", time.monotonic())
        self._peer_of[transport] = peer
        return True

    def mark(self, transport: Transport, state: State) -> bool:
        """What a connection does now; False where it may not, since only a spare place is left for it."""
        if transport not in self._peer_of:
            return True
        own = self._peers[self._peer_of[transport]]
        begins = own[transport].state in ("half-open", "idle") and state in ("unauthenticated", "uploading")
        own[transport] = _Since(state, time.monotonic())
        return not begins or len(own) <= self._most_of_peer or self._make_room(own)

    def close(self, transport: Transport) -> None:
        """A connection has ended. Does nothing for one that is not open."""
        peer = self._peer_of.pop(transport, None)
        if peer is not None:
            del self._peers[peer][transport]
            if not self._peers[peer]:
                del self._peers[peer]

    def _make_room(self, connections: Mapping[Transport, _Since]) -> bool:
        """End the oldest connection that nothing is lost with."""
        now = time.monotonic()
        for wanted, after in _EVICTED_AFTER.items():
            for transport, (state, since) in connections.items():
                if state == wanted and now - since >= after:
                    self.close(transport)
                    transport.abort()
                    return True
        return False


def peer_of(address: str) -> str:
    """Whose an address is: of IPv6, all of a network's are one peer's."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_loopback:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, _NETWORK), strict=False))


def raise_file_limit() -> int:
    """Let this process have as many files open as the system allows it, and say how many connections that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = _ENOUGH_FILES if soft == resource.RLIM_INFINITY else soft
    return max(files - _OTHER_FILES, files // 2)
