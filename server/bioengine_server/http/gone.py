"""Whether the client of a request is still there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from starlette.requests import Request


async def until_gone(request: Request) -> None:
    """Wait until the client has closed its connection. The request's body has to be read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextlib.contextmanager
def connected(request: Request) -> Iterator[Callable[[], bool]]:
    """Whether the client of a request is still connected, once the request's body has been read."""
    gone = asyncio.ensure_future(until_gone(request))
    try:
        yield lambda: not gone.done()
    finally:
        gone.cancel()
