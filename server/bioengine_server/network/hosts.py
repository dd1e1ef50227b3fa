"""Which names this server answers to: the Host header of every request and websocket is compared with them.

A web page can have a name of its own point to this machine (DNS rebinding), and is then of the same origin as the server for
the browser. The browser still sends that name as the Host.
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
_PATIENCE = 2.0  # seconds for the name service to tell this machine's full name


class Hosts:
    """The names of one server. Loopback is always among them."""

    def __init__(self, public_url: str, host: str, bind_address: str, allowed: str, is_in_container: bool) -> None:
        """
        Args:
            public_url: the server's address as clients are told it.
            host: that it listens on, as the admin says.
            bind_address: that it listens on.
            allowed: the setting BIOENGINE_ALLOW_HOSTS.
            is_in_container: where the addresses by which the machine around it is reached are not known.
        """
        named = [name for name in (urlsplit(public_url).hostname or "", host, bind_address) if name not in EVERY_ADDRESS]
        self._patterns = HostPatterns([*named, *parse_hosts(allowed)])
        self._is_behind = is_in_container
        self._own_names = frozenset() if is_loopback(bind_address) else frozenset(own_names())

    @property
    def names(self) -> list[str]:
        """What the admin is told: the names that are taken, without those of loopback."""
        return sorted({*self._patterns.names, *self._own_names})

    @property
    def takes_all(self) -> bool:
        """Whether the admin has turned the check off."""
        return self._patterns.takes_all

    def check(self, values: Sequence[bytes], here: str) -> str:
        """The one Host of a request, in lower case, with its port where it names one. Raises HostNotAllowed.

        Args:
            values: of all its Host headers.
            here: the address of this machine that the connection came to.
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
        """Whether `name` is an address of this machine. An address cannot be made to point elsewhere, as a name can."""
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
    """The address that is written there; an IPv4 address within IPv6 as what it is. None for a name."""
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def own_names() -> set[str]:
    """The names of this machine: its own, the one that multicast DNS gives it, and the full one of the name service."""
    name = socket.gethostname().lower()
    found = {name, f"{name}.local"}

    def ask() -> None:
        full = socket.getfqdn().lower()
        if full.startswith(f"{name}."):
            found.add(full)

    # The name service may take long to say that it does not know.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return set(found)
