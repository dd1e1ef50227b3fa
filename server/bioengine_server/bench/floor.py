"""The floor: the time to encode an image, send it to another process over loopback and back, and decode it.

No server can be faster on this machine. Results are shown as ratios to the floor, so that machines can be compared.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    """A server that sends back what `callers.tcp_client` sends; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as incoming:
        while length := incoming.read(8):
            connection.sendall(incoming.read(int.from_bytes(length, "big")))
