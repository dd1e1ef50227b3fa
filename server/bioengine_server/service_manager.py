"""What systemd is told of the server, where it has started it as a service of `Type=notify` (sd_notify(3)); nothing elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

READY, STOPPING = "READY=1", "STOPPING=1"

_INTERVAL = 1.0  # seconds between two looks at the state


def notify(*lines: str) -> None:
    """Tell it a state, such as READY or `STATUS=...`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # in the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto("\n".join(lines).encode(), address)


async def tell_status(reason: Callable[[], str | None]) -> None:
    """Keep it told whether the server is ready, until cancelled. `reason`: why it is not; None: it is."""
    told = ""
    while True:
        why = reason()
        status = "Ready" if why is None else f"Not ready: {' '.join(why.split())[:200]}"
        if status != told:
            notify(f"STATUS={status}")
            told = status
        await asyncio.sleep(_INTERVAL)
