"""Run uvicorn on a socket of this process.

Without per-message deflate, which Hypha's own command cannot turn off, images are sent six to eight times faster.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from bioengine_server.foreign.uvicorn import Server
from bioengine_server.http.connections import Connections, raise_file_limit
from bioengine_server.http.protocol import protocols
from bioengine_server.network.errors import PortInUse

# Clients send chunks of at most half a megabyte. uvicorn keeps an unfinished message of each connection.
_MAX_FRAME = 4 << 20  # bytes

# The kernel detects peers that have disappeared, even if this process is busy: it probes after half a minute of silence, for
# another half a minute, and gives up if sent data was not acknowledged for two minutes.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # seconds, seconds, times
_TAKES_NOTHING = 120_000  # milliseconds

# How long connections may take to close when the server stops.
_GRACE = 2  # seconds


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is given; otherwise every response waits 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # inherited by all accepted connections
        for option, value in {**_KEEPALIVE, socket.TCP_USER_TIMEOUT: _TAKES_NOTHING}.items():
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise PortInUse(host, port, error.strerror or str(error)) from error
    return listener


class HttpServer:
    """uvicorn on an open socket; the caller handles signals."""

    def __init__(self, app: Any, listener: socket.socket, peer_connections: int) -> None:
        """
        Args:
            app: the application to serve.
            listener: the listening socket.
            peer_connections: how many connections one address may have open at once.
        """
        self._listener = listener
        self._server = Server(
            uvicorn.Config(
                app,
                **protocols(Connections(peer_connections, raise_file_limit())),
                server_header=False,
                log_config=None,
                access_log=False,
                ws_per_message_deflate=False,
                ws_max_size=_MAX_FRAME,
                # As in Hypha's own launcher: Hypha has its own idle timeout, and a busy client may miss pings.
                ws_ping_interval=None,
                ws_ping_timeout=None,
                timeout_keep_alive=300,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start serving; returns when requests are answered."""
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
