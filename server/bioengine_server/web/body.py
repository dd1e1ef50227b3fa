"""Bodies of requests: bounded, and unzipped within the same bound, before memory is taken."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Sequence

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bioengine_server.errors import BadBody, TooLarge
from bioengine_server.limits import SizeLimit

_GZIP = 16 + zlib.MAX_WBITS
_STEP = 1 << 20  # bytes that are unzipped at once


async def chunks(headers: Headers, receive: Receive, limit: SizeLimit) -> AsyncIterator[bytes]:
    """The body of a request as it comes, unzipped, within `limit`. Raises TooLarge, BadBody.

    A body of a thousand times its size, unzipped, costs no more than the limit.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate", ""):
        raise BadBody(f"its Content-Encoding {encoding[:40]!r} is not gzip, deflate or identity")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit.bytes:
        raise TooLarge(int(length), limit)
    inflate = None if encoding in ("identity", "") else zlib.decompressobj(_GZIP if encoding == "gzip" else zlib.MAX_WBITS)
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadBody("the client went away")
        more = message.get("more_body", False)
        data = message.get("body", b"")
        while data:
            try:
                plain = data if inflate is None else inflate.decompress(data, _STEP)
            except zlib.error as error:
                raise BadBody(f"it is not {encoding}, as its Content-Encoding says ({error}); leave that header out") from error
            data = b"" if inflate is None else inflate.unconsumed_tail
            size += len(plain)
            if size > limit.bytes:
                raise TooLarge(size, limit, is_all=False)
            if plain:
                yield plain
    if inflate is not None and size and not inflate.eof:
        raise BadBody("it was cut off on its way; send it once more")


async def read(headers: Headers, receive: Receive, limit: SizeLimit) -> bytes:
    """All of a body. Raises TooLarge, BadBody."""
    return b"".join([chunk async for chunk in chunks(headers, receive, limit)])


class Rest:
    """A request's `receive` that knows whether more of the body is to come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def __call__(self) -> Message:
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self, headers: Headers, most: int) -> None:
        """Take what is left before a refusal: many clients read an answer only when they have sent everything.

        Args:
            headers: of the request.
            most: bytes, of which no more are waited for.
        """
        length = headers.get("content-length", "")
        size = int(length) if length.isdecimal() else 0
        taken = 0
        while self._more and max(size, taken) <= most:
            taken += len((await self()).get("body", b""))


class BoundedBodies:
    """Middleware for routes that are not ours: they get bodies within the limit, unzipped."""

    def __init__(self, app: ASGIApp, limit: SizeLimit, own: Sequence[BaseRoute]) -> None:
        """
        Args:
            app: what gets the bodies.
            limit: of one, unzipped.
            own: our routes, which see to it themselves; some as the body comes, without having all of it.
        """
        self._app = app
        self._limit = limit
        self._own = own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bodiless = scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS")
        if bodiless or any(route.matches(scope)[0] is Match.FULL for route in self._own):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            body = await read(headers, receive, self._limit)
        except (TooLarge, BadBody) as error:
            from bioengine_server.web.answers import refusal

            await refusal(error)(scope, receive, send)
            return
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-encoding", b"content-length")]
        scope = {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def once() -> Message:
            return parts.pop() if parts else await receive()

        await self._app(scope, once, send)
