"""The control room, open for as long as the server runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn

from bioengine_server.control.app import control_app
from bioengine_server.control.overview import Overview
from bioengine_server.control.socket import listening
from bioengine_server.foreign.uvicorn import Server

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def control_room(overview: Overview, folder: Path) -> AsyncIterator[None]:
    """Answer the admin's commands on a socket in the run dir; where it cannot be made, the server runs without."""
    async with contextlib.AsyncExitStack() as parts:
        try:
            listener = parts.enter_context(listening(folder))
        except OSError as error:
            logger.warning("`bioengine status` and its like will not work: no socket in %s (%s)", folder, error.strerror)
            yield
            return
        config = uvicorn.Config(
            control_app(overview), lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait({task}, timeout=2)
