"""What a client is told that is refused, or not wanted any more: the reason, in answer to each of its calls.

A browser keeps from its pages why a websocket was refused, and imjoy-rpc 0.5.9 waits for ever where one was. A call that is
on its way while a connection is closed is never answered. So connections are taken, or kept, and lead nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from bioengine_server.gateway.rpc import LegacyRPC

# How long a client may go on asking.
_PATIENCE = 60.0  # seconds


async def answer_with(reason: Exception, rpc: LegacyRPC, listening: Awaitable[None]) -> None:
    """Answer a client's calls with `reason` until it goes, or for a minute.

    Args:
        reason: what it is told.
        rpc: the end of its connection.
        listening: ends when the client goes.
    """
    rpc.refuse_with(reason)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await listening
    finally:
        await rpc.disconnect()
