"""aiohttp's private names: check a connection before anything is sent, and limit the size of a response while it is read."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from bioengine_server.library import require

VERSION = "3.14.5"
PARTS = {
    "UnixConnector._create_connection": (aiohttp.UnixConnector._create_connection, "1f392e6f08fe"),
    "ClientResponse.read": (aiohttp.ClientResponse.read, "87a96c28a551"),
}


def check() -> None:
    """Raises LibraryChanged if aiohttp is not the version that was reviewed."""
    require("aiohttp", VERSION, PARTS)


class CheckedUnixConnector(aiohttp.UnixConnector):
    """Connects to a Unix socket, and checks each connection before it is used."""

    def look_at(self, transport: asyncio.Transport | None) -> None:
        """To be overridden: raises an error if the wrong program listens, which closes the connection."""

    async def _create_connection(self, *arguments: Any) -> ResponseHandler:
        protocol = await super()._create_connection(*arguments)
        try:
            self.look_at(protocol.transport)
        except BaseException:
            if protocol.transport is not None:
                protocol.transport.abort()
            raise
        return protocol


class WholeResponse(aiohttp.ClientResponse):
    """A response whose way of reading the whole body can be overridden."""

    async def read_whole(self) -> bytes:
        """To be overridden; called once."""
        return await self.content.read()

    async def read(self) -> bytes:
        if self._body is None:
            self._body = await self.read_whole()
        return await super().read()
