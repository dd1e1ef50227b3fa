"""The names of this server: the Host header of every request and websocket must contain one of them.

A web page can make a name of its own resolve to this machine (DNS rebinding); for the browser, page and server then have the same
origin. But the browser still sends that name in the Host header.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from bioengine_server.network.errors import HostNotAllowed
from bioengine_server.network.peers import is_loopback

_NAME = r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_])?"
_HOST = re.compile(rf"(?P<name>{_NAME}|\[[0-9a-f]*:[0-9a-f:.]{{1,44}}\])(:(?P<port>[0-9]{{1,5}}))?", re.IGNORECASE)
_LAST_PORT = 65535
EVERY_ADDRESS = ("", "0.0.0.0", "::")
_PATIENCE = 2.0  # seconds that the name service may take to return this machine's full name


class Hosts:
    """The names of one server, which always include those of loopback."""

    def __init__(self, public_url: str, host: str, bind_address: str, allowed: str, is_in_container: bool) -> None:
        """
        Args:
            public_url: the server's public URL.
            host: the host to listen on, as the admin has set it.
            bind_address: the address that the server listens on.
            allowed: the setting BIOENGINE_ALLOW_HOSTS.
            is_in_container: whether it runs in a container, where the host's addresses are not known.
        """
        named = [name for name in (urlsplit(public_url).hostname or "", host, bind_address) if name not in EVERY_ADDRESS]
        self._patterns = HostPatterns([*named, *parse_hosts(allowed)])
        self._is_behind = is_in_container
        self._own_names = frozenset() if is_loopback(bind_address) else frozenset(own_names())

    @property
    def names(self) -> list[str]:
        """The accepted names, without those of loopback, to show to the admin."""
        return sorted({*self._patterns.names, *self._own_names})

    @property
    def takes_all(self) -> bool:
        """Whether the admin has turned the check off."""
        return self._patterns.takes_all

    def check(self, values: Sequence[bytes], here: str) -> str:
        """The Host of a request, in lower case, with its port if it has one. Raises HostNotAllowed.

        Args:
            values: the values of all its Host headers.
            here: the address of this machine at which the connection arrived.
        """
        if len(values) != 1:
            raise HostNotAllowed(None)
        host = values[0].decode("latin-1")
        found = _HOST.fullmatch(host)
        if found is None or (found["port"] and not 1 <= int(found["port"]) <= _LAST_PORT):
            raise HostNotAllowed(host)
        name = found["name"].lower()
        if not (self._patterns.match(name) or name in self._own_names or self._is_address_of_ours(name, here)):
            raise HostNotAllowed(host)
        return host.lower()

    def _is_address_of_ours(self, name: str, here: str) -> bool:
        """Whether `name` is an address of this machine. Unlike a name, an address cannot be made to lead to another machine."""
        address = as_address(name)
        if address is None or address.is_unspecified:
            return name == "localhost"
        if address.is_loopback:
            return True
        return self._is_behind or address == as_address(here)


class HostPatterns:
    """Names and addresses; `*.lab.example` for every name below that one, `*` for all."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.names = {canonical(entry) for entry in entries}
        self.takes_all = "*" in self.names
        self._suffixes = tuple(name[1:] for name in self.names if name.startswith("*."))

    def match(self, name: str) -> bool:
        """Whether a name or address in lower case is one of them."""
        return self.takes_all or canonical(name) in self.names or (bool(self._suffixes) and name.endswith(self._suffixes))


def parse_hosts(value: str) -> list[str]:
    """The entries of BIOENGINE_ALLOW_HOSTS. Raises ValueError."""
    entries = [entry.strip().lower() for entry in value.split(",") if entry.strip()]
    for entry in entries:
        if entry != "*" and as_address(entry) is None and not re.fullmatch(rf"(\*\.)?{_NAME}", entry):
            raise ValueError(f"{entry[:80]!r} is not a name or address, such as bioengine.lab, *.lab.example or 192.168.1.5")
    return entries


def canonical(name: str) -> str:
    """A name in lower case, or an address as it is usually written; one of IPv6 without brackets."""
    address = as_address(name)
    return name.lower() if address is None else str(address)


def as_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text stands for; an IPv4 address mapped into IPv6 becomes IPv4. None for a name."""
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def own_names() -> set[str]:
    """The names of this machine: its host name, its multicast DNS name, and its full name from the name service."""
    name = socket.gethostname().lower()
    found = {name, f"{name}.local"}

    def ask() -> None:
        full = socket.getfqdn().lower()
        if full.startswith(f"{name}."):
            found.add(full)

    # The name service may take long to answer that it does not know the name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return set(found)
