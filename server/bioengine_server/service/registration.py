"""Offer `triton-client` in a Hypha: in the server process, or from a process of its own against a Hypha URL."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import hypha_rpc.rpc
from hypha_rpc import connect_to_server
from tenacity import AsyncRetrying, before_sleep_log, wait_exponential

from bioengine_server.hub.guard import send_bare_errors
from bioengine_server.service.triton_client import TritonClient

logger = logging.getLogger(__name__)

# How often a connection of our own is asked whether it still stands and still offers the service.
_CHECK_INTERVAL = 3.0  # seconds
_CHECK_TIMEOUT = 10.0  # seconds

# One frame of a traceback: where it is, and the code there.
_FRAME = re.compile(r'^  (?:File "|\[Previous line repeated ).*(?:\n    .*)*\n?', re.MULTILINE)


def hide_tracebacks() -> None:
    """Have errors reach clients as their message alone: hypha-rpc 0.21 sends the server's traceback, paths and all.

    It puts that of an asynchronous method into the message, and that of another beside it.
    """
    hypha_rpc.rpc.format_traceback = _last_message
    send_bare_errors()


def _last_message(traceback: str) -> str:
    """The exception's own lines at the end of a formatted traceback, which may be indented, too."""
    message = _FRAME.split(traceback.strip())[-1]
    return message.removeprefix("bioengine_server.errors.")


class Registration:
    """Registers one service with a Hypha API object, whichever way that is connected."""

    def __init__(self, service: TritonClient) -> None:
        self._service = service

    async def register(self, api: Any) -> str:
        """Register the service. Returns its full id.

        Args:
            api: a connection to the workspace `public`, with the permission to write.
        """
        info = await api.register_service(self._service.definition(), {"overwrite": True})
        id = str(info["id"])
        logger.info("Registered %s", id)
        return id

    async def run(self, hypha_url: str, token: str) -> None:
        """Connect to a Hypha, register, and do so again whenever that Hypha was away; until cancelled."""
        while True:
            async for attempt in AsyncRetrying(
                wait=wait_exponential(multiplier=0.5, max=10), before_sleep=before_sleep_log(logger, logging.WARNING)
            ):
                with attempt:
                    api = await connect_to_server(
                        {"name": "bioengine registration", "server_url": hypha_url, "token": token, "workspace": "public"}
                    )
            try:
                id = await self.register(api)
                while True:
                    await asyncio.sleep(_CHECK_INTERVAL)
                    async with asyncio.timeout(_CHECK_TIMEOUT):
                        await api.get_service_info(id)
            except Exception as error:
                logger.warning("Lost the Hypha server at %s (%s: %s), connecting again", hypha_url, type(error).__name__, error)
            finally:
                try:
                    await api.disconnect()
                except Exception as error:
                    logger.debug("Disconnecting: %s", error)
