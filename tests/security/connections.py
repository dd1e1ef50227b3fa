"""Connections that send any bytes that a test chooses, and a server in this process for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bioengine_server.http.server import HttpServer, listen
from starlette.types import ASGIApp

from tests.stack.harness import free_port


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, most_of_peer: int) -> AsyncIterator[int]:
    """The port of the project's own HTTP server with an application, which gives a peer so many connections."""
    port = free_port()
    with contextlib.closing(listen("127.0.0.1", port)) as listener:
        server = HttpServer(app, listener, most_of_peer)
        await server.start()
        yield port
        await server.stop()


class Raw:
    """A connection that says what a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int, source: str = "127.0.0.1") -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))

    async def is_ended(self, seconds: float = 5) -> bytes | None:
        """What it got before it was ended; None where it was not."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read()
        except ConnectionResetError:
            return b""
        except TimeoutError:
            return None

    async def request(self, rest: bytes = b"\r\n") -> bytes:
        """The answer to a whole request, or to the `rest` of one."""
        self.writer.write(rest)
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            return head + await self.reader.readexactly(4)


class Fake:
    """A connection without a network."""

    def __init__(self) -> None:
        self.is_aborted = False
        self.unsent = 0

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent
