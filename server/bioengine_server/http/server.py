"""uvicorn, on a socket of ours.

Without per-message deflate, which Hypha's own command cannot turn off, images pass six to eight times faster.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from bioengine_server.http.connections import Connections, raise_file_limit
from bioengine_server.http.protocol import protocols
from bioengine_server.network.errors import PortInUse

# Clients send chunks of at most half a megabyte. uvicorn keeps an unfinished message of each connection.
_MAX_FRAME = 4 << 20  # bytes

# A peer that is not there any more, and never said so, is looked for by the kernel, which a busy program cannot delay: after
# half a minute without a word, and then for another one, or where it has not taken for two minutes what was sent to it.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # seconds, seconds, times
_TAKES_NOTHING = 120_000  # milliseconds

# How long connections may take to end when the server stops.
_GRACE = 2  # seconds


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else every answer waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # and so for all that is accepted
        for option, value in {**_KEEPALIVE, socket.TCP_USER_TIMEOUT: _TAKES_NOTHING}.items():
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortInUse(host, port, error.strerror or str(error)) from error
    return listener


class HttpServer:
    """uvicorn on a socket of ours; signals are handled by whoever runs it."""

    def __init__(self, app: Any, listener: socket.socket, peer_connections: int) -> None:
        """
        Args:
            app: to serve.
            listener: where.
            peer_connections: that one address may have open at once.
        """
        self._listener = listener
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                **protocols(Connections(peer_connections, raise_file_limit())),
                server_header=False,
                log_config=None,
                access_log=False,
                ws_per_message_deflate=False,
                ws_max_size=_MAX_FRAME,
                # As in Hypha's own launcher: it has its own idle timeout, and a busy client may miss pings.
                ws_ping_interval=None,
                ws_ping_timeout=None,
                timeout_keep_alive=300,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve; returns when requests are answered."""
        self._server.config.load()
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("Hypha did not start; its log says why")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
