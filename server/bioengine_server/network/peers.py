"""Which peers are programs on this machine. Seen from a container, connections from the host come from the gateway."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

_ROUTES = Path("/proc/net/route")


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, is a loopback address."""
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return host == "localhost"


def gateway(routes: Path = _ROUTES) -> str | None:
    """The address of the default gateway (proc(5), /proc/net/route); None if there is none."""
    try:
        lines = [line.split() for line in routes.read_text().splitlines()[1:]]
    except OSError:
        return None
    found = (fields[2] for fields in lines if len(fields) > 2 and fields[1] == "00000000" and fields[2] != "00000000")
    address = next(found, None)
    return None if address is None else socket.inet_ntoa(struct.pack("<L", int(address, 16)))
