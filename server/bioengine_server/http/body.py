"""Request bodies, limited in size before and after decompression."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.http.body_memory import BodyMemory, Take
from bioengine_server.http.error_responses import refusal
from bioengine_server.http.errors import BodiesTooLarge
from bioengine_server.http.route_table import GET, RouteTable
from bioengine_server.limits import SizeLimit

_STEP = 1 << 20  # bytes that are decompressed at once
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

# Noisy images are compressed to a half, empty ones to a thousandth. Above this size, such a high ratio is treated as an attack,
# which costs its sender a thousandth of what it costs the server.
_ANY_RATIO = 64 << 20  # bytes, decompressed
_MAX_RATIO = 200

# How many bytes beyond the size limit are read of a refused request.
_DRAIN_SECONDS = 10.0
_DRAIN_BYTES = 128 << 20


async def chunks(headers: Headers, receive: Receive, limit: SizeLimit) -> AsyncIterator[bytes]:
    """Yield the body of a request as it arrives, decompressed, up to `limit` bytes. Raises TooLarge, BadBody.

    However large the decompressed body would be, no more than the limit is kept, and other requests are served meanwhile.
    """
    encoding = headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", *_WINDOWS):
        raise BadBody(f"its Content-Encoding {encoding[:40]!r} is not gzip, deflate or identity")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit.bytes:
        raise TooLarge(int(length), limit)
    unzip = None if encoding == "identity" else _Unzip(encoding)
    received = size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadBody("the client went away")
        more = message.get("more_body", False)
        data = message.get("body", b"")
        received += len(data)
        if received > limit.bytes:
            raise TooLarge(received, limit, is_all=False)
        if unzip is None:
            if data:
                yield data
            continue
        for plain in unzip.feed(data):
            size += len(plain)
            if size > limit.bytes:
                raise TooLarge(size, limit, is_all=False)
            if size > _ANY_RATIO and size > _MAX_RATIO * unzip.used:
                raise BadBody(
                    f"its size grows more than {_MAX_RATIO} times when it is decompressed; send it without Content-Encoding"
                )
            yield plain
            await asyncio.sleep(0)
    if unzip is not None and received and not unzip.is_complete:
        raise BadBody("it is not complete; send it again")


class _Unzip:
    """Decompresses one zlib stream."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream = zlib.decompressobj(_WINDOWS[encoding])
        self.used = 0  # bytes that have arrived

    @property
    def is_complete(self) -> bool:
        return self._stream.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress `data`, in pieces. Raises BadBody."""
        is_more = bool(data)
        while is_more:
            if self._stream.eof:
                raise BadBody(
                    f"there is more data after the end of the {self._encoding} stream; send the body as one {self._encoding} "
                    "stream"
                )
            try:
                plain = self._stream.decompress(data, _STEP)
            except zlib.error as error:
                raise BadBody(
                    f"it is not {self._encoding}, as its Content-Encoding says ({error}); leave that header out"
                ) from error
            before = len(data)
            data = self._stream.unconsumed_tail or self._stream.unused_data
            self.used += before - len(data)
            is_more = bool(data) or (len(plain) == _STEP and not self._stream.eof)
            if plain:
                yield plain


async def read(headers: Headers, receive: Receive, limit: SizeLimit, take: Take) -> bytearray:
    """Read a whole body. `take` counts its bytes before they are kept. Raises TooLarge, BadBody, BodiesTooLarge."""
    body = bytearray()
    async for chunk in chunks(headers, receive, limit):
        take(len(chunk))
        body += chunk
    return body


class Rest:
    """Wraps a request's `receive`, and knows whether more of the body will arrive."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def __call__(self) -> Message:
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self, headers: Headers, most: int) -> None:
        """Read the rest of the body before a refusal, because many clients read a response only after they have sent everything.

        This ends after ten seconds; a client that is still sending then may miss the response.

        Args:
            headers: the request's headers.
            most: the largest number of bytes to wait for.
        """
        most = min(most, _DRAIN_BYTES)
        length = headers.get("content-length", "")
        size = int(length) if length.isdecimal() else 0
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._more and max(size, taken) <= most:
                    taken += len((await self()).get("body", b""))


class BoundedBodies:
    """Middleware for Hypha's routes: passes them decompressed bodies within the size limit."""

    def __init__(self, app: ASGIApp, limit: SizeLimit, table: RouteTable, memory: BodyMemory) -> None:
        """
        Args:
            app: the application that gets the bodies.
            limit: the size limit of one decompressed body.
            table: the route table. Handlers of its own routes read bodies themselves, some of them while the body arrives.
            memory: the memory for all bodies.
        """
        self._app = app
        self._limit = limit
        self._table = table
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = None if scope["type"] != "http" or scope["method"] in GET else self._table.find(scope)
        if entry is None or entry.handler is not None:
            await self._app(scope, receive, send)
            return
        with self._memory.share() as take:
            try:
                body = await read(Headers(scope=scope), receive, self._limit, take)
            except (TooLarge, BadBody, BodiesTooLarge) as error:
                await refusal(error)(scope, receive, send)
                return
            kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-encoding", b"content-length")]
            scope = {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
            parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def once() -> Message:
                return parts.pop() if parts else await receive()

            await self._app(scope, once, send)
