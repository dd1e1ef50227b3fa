"""Which addresses, in any spelling, belong to hosts on the public internet.

A name, a redirect or a DNS server that somebody else controls must not lead the server to itself, to its network, or to the
metadata service of a cloud. If an IPv6 address contains an IPv4 address, to which a gateway forwards it, that address is checked.
"""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# Special networks, and the relays of 6to4, that older releases of Python consider public.
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_DOCUMENTATION = IPv6Network("3fff::/20")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052; networks with only IPv6 reach the public IPv4 internet through it
# 6to4 and Teredo, both obsolete, tunnel to an IPv4 address through a relay that anybody may run.
_TUNNELS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: the first half of the interface's number; the second is an IPv4 address


def is_public(address: str) -> bool:
    """Whether a numeric address, such as a socket's, is on the public internet."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return _is_public_4(parsed) if isinstance(parsed, IPv4Address) else _is_public_6(parsed)


def numeric_host(host: str) -> str | None:
    """The address that a URL's host stands for, even if it is spelled `127.1`, `0x7f.0.0.1` or `2130706433`; None for a name."""
    try:
        return str(ipaddress.ip_address(host.strip("[]").partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, UnicodeError):
        return None


def _is_public_4(address: IPv4Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in network for network in _SPECIAL)
    return address.is_global and not special


def _is_public_6(address: IPv6Address) -> bool:
    if address.ipv4_mapped is not None:
        return _is_public_4(address.ipv4_mapped)
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64:
        return _is_public_4(last)
    if address not in _GLOBAL_UNICAST or not address.is_global:
        return False
    if any(address in network for network in (*_TUNNELS, _DOCUMENTATION)):
        return False
    is_isatap = (int(address) >> 32) & 0xFFFFFFFF in _ISATAP
    return not is_isatap or _is_public_4(last)
