"""Limit the open connections, for each peer and in total. Connections that wait for their client are closed for new ones.

So a client that opens many connections and sends half a request on each cannot lock out others.
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
half-open        the header of the request is not complete
unauthenticated  a websocket whose client has not identified itself yet
idle             waits for the next request
uploading        the body of the request is not complete
busy             a request runs, or it is a websocket with an identified client
"""

# Seconds without data after which a connection may be closed for a new one. Connections in other states are never closed.
_EVICTED_AFTER: Mapping[State, float] = {"half-open": 0, "unauthenticated": 5, "idle": 0, "uploading": 5}

_SPARE = 8  # spare connections of each peer, for requests without a body such as health checks

_ENOUGH_FILES = 65_536
_OTHER_FILES = 512  # files that the server opens besides the connections of clients
_NETWORK = 64  # bits of an IPv6 address that identify a peer, which can choose the other bits itself


class Transport(Protocol):
    """The methods of a connection's transport that are used here."""

    def abort(self) -> None: ...

    def get_write_buffer_size(self) -> int: ...


class _Since(NamedTuple):
    state: State
    time: float  # time of the last byte


class Connections:
    """The open connections, grouped by peer, oldest first."""

    def __init__(self, most_of_peer: int, most: int) -> None:
        """
        Args:
            most_of_peer: the largest number for one peer.
            most: the largest number for all peers.
        """
        self._most_of_peer = most_of_peer
        self._most = most
        self._peers: dict[str, dict[Transport, _Since]] = {}
        self._peer_of: dict[Transport, str] = {}

    def __len__(self) -> int:
        return len(self._peer_of)

    def open(self, transport: Transport, address: str) -> bool:
        """Count a new connection, for which an older one may be closed. Returns False if there is no room for it.

        Args:
            transport: the connection's transport.
            address: the address of its peer.
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
        """Note a connection's new state. Returns False if it may not have it, because the connection uses a spare place."""
        if transport not in self._peer_of:
            return True
        own = self._peers[self._peer_of[transport]]
        begins = own[transport].state in ("half-open", "idle") and state in ("unauthenticated", "uploading")
        own[transport] = _Since(state, time.monotonic())
        return not begins or len(own) <= self._most_of_peer or self._make_room(own)

    def close(self, transport: Transport) -> None:
        """Note that a connection has ended. Does nothing if it is not open."""
        peer = self._peer_of.pop(transport, None)
        if peer is not None:
            del self._peers[peer][transport]
            if not self._peers[peer]:
                del self._peers[peer]

    def _make_room(self, connections: Mapping[Transport, _Since]) -> bool:
        """Close the oldest connection that can be closed without loss: none whose client has not read all of its response yet."""
        now = time.monotonic()
        for wanted, after in _EVICTED_AFTER.items():
            for transport, (state, since) in connections.items():
                if state == wanted and now - since >= after and not transport.get_write_buffer_size():
                    self.close(transport)
                    transport.abort()
                    return True
        return False


def peer_of(address: str) -> str:
    """The peer of an address. All IPv6 addresses of one network belong to the same peer."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_loopback:
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, _NETWORK), strict=False))


def raise_file_limit() -> int:
    """Raise this process's limit of open files as far as allowed, and return how many connections that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = _ENOUGH_FILES if soft == resource.RLIM_INFINITY else soft
    return max(files - _OTHER_FILES, files // 2)
