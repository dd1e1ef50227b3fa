"""Find free ports."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """This many ports of loopback on which no program listens now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(listener.getsockname()[1]) for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()
