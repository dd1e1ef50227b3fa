"""Refuse a client by answering each of its calls with the reason.

A browser hides from web pages why a websocket was refused, and imjoy-rpc 0.5.9 waits forever after a refusal. A call that is sent
while a connection is being closed is never answered. So the connection is accepted, or kept open, and every call gets an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from bioengine_server.gateway.rpc import LegacyRPC

# How long a refused client may keep sending calls.
_PATIENCE = 60.0  # seconds


async def answer_with(reason: Exception, rpc: LegacyRPC, listening: Awaitable[None]) -> None:
    """Answer a client's calls with `reason` until it goes, or for a minute.

    Args:
        reason: the error message.
        rpc: the RPC endpoint of its connection.
        listening: ends when the client disconnects.
    """
    rpc.refuse_with(reason)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await listening
    finally:
        await rpc.disconnect()
