"""Hypha, in this process: its own application with our limits, and uvicorn to serve it.

The launcher is ours because Hypha's command has no flags for what matters here: without per-message deflate images pass
six to eight times faster, and with the default message limit a client that sends a few large images is thrown out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from hypha.core.store import RedisStore
from hypha.server import create_application, get_argparser

from bioengine_server.access.rules import Access
from bioengine_server.access.tokens import check_scopes, use_secret
from bioengine_server.hub import hypha_parts
from bioengine_server.hub.connections import Connections, raise_file_limit
from bioengine_server.hub.errors import PortInUse
from bioengine_server.hub.guard import guard_rpc, is_own_end
from bioengine_server.hub.login import replace_login
from bioengine_server.hub.protocol import check_uvicorn, protocols
from bioengine_server.hub.reach import confine_clients
from bioengine_server.settings import Settings

# Messages in a second, and in a burst, that one client may send: an image of 1 GB is 4,000 messages.
_MESSAGE_RATE = 20_000
_MESSAGE_BURST = 200_000

_MOST_SERVICES = 100  # that one client may offer; Hypha keeps all of each in memory

# Clients send chunks of at most half a megabyte. uvicorn keeps an unfinished message of each connection.
_LARGEST_FRAME = 4 << 20  # bytes

# A peer that is not there any more, and never said so, is looked for by the kernel, which a busy program cannot delay: after
# half a minute without a word, and then for another one, or where it has not taken for two minutes what was sent to it.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # seconds, seconds, times
_TAKES_NOTHING = 120_000  # milliseconds

# How long connections may take to end when the server stops.
_GRACE = 2  # seconds


def create_hypha(settings: Settings, access: Access, jwt_secret: str) -> FastAPI:
    """Hypha's ASGI application; its store is `app.state.store` and is ready when the application has started.

    Raises LibraryChanged.
    """
    hypha_parts.require_parts()
    hypha_parts.use_rpc(guard_rpc(access.size_limit))
    hypha_parts.know_who_is_there()
    hypha_parts.keep_first_client(is_own_end)
    replace_login()
    confine_clients()
    check_scopes()
    hypha_parts.hide_version()
    hypha_parts.hide_prints()
    os.environ.update(
        HYPHA_WS_MSG_RATE_LIMIT=str(_MESSAGE_RATE),
        HYPHA_WS_MSG_BURST_LIMIT=str(_MESSAGE_BURST),
        HYPHA_MAX_SERVICES_PER_CLIENT=str(_MOST_SERVICES),
    )
    use_secret(jwt_secret)
    database = settings.node_folder / "hypha.sqlite"
    database.unlink(missing_ok=True)  # event logs and the like, of one run only
    arguments = get_argparser().parse_args(
        [
            f"--host={settings.bind_address}",
            f"--port={settings.port}",
            f"--public-base-url={settings.told_url}",
            f"--database-uri=sqlite+aiosqlite:///{database}",
            "--disable-agent-skills",
        ]
    )
    app: FastAPI = create_application(arguments)
    hypha_parts.drop_rate_limit(app)
    return app


def hypha_store(app: FastAPI) -> RedisStore:
    store: RedisStore = app.state.store
    return store


def share_service(store: RedisStore, service_id: str) -> None:
    """Let the ids that clients of the public server ask for mean the public service, where they name nothing else.

    These are the bare `service_id`, which Hypha 0.21 looks up in the client's own workspace only (anonymous users have one each),
    and that of an old web page.
    """
    manager: Any = hypha_parts.manager_of(store)
    find = manager.get_service_info
    shared = (service_id, f"public/workspace-manager:{service_id}")

    async def find_or_shared(service_id_asked: str, config: dict[str, Any] | None = None, context: Any = None) -> Any:
        try:
            return await find(service_id_asked, config, context=context)
        except KeyError:
            if service_id_asked not in shared:
                raise
            return await find(f"public/{service_id}", config, context=context)

    manager.get_service_info = find_or_shared


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
                ws_max_size=_LARGEST_FRAME,
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
        check_uvicorn(self._server.config)
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
