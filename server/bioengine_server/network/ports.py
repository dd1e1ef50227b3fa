"""Ports that are free."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """As many ports on loopback that nobody listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(listener.getsockname()[1]) for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
