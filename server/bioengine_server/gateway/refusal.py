"""What a page is told when its client is refused: the reason, in answer to each of its calls.

A browser keeps from its pages why a websocket was refused, and imjoy-rpc 0.5.9 waits for ever where one was. So the
connection of a page is taken, and leads nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bioengine_server.gateway.rpc import LegacyRPC

# How long a page may go on asking.
_PATIENCE = 60.0  # seconds


async def answer_page(connection: Any, client_id: str, reason: Exception) -> None:
    """Answer a page's calls with `reason` until it goes, or for a minute.

    Args:
        connection: an accepted one, as `LegacyRPC` wants it, with `listen()`.
        client_id: the client's id.
        reason: what it is told.
    """
    rpc = _RefusingRPC(connection, "public", client_id, user={}, max_message_size=0)
    rpc.refuse_with(reason)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await connection.listen()
    finally:
        await rpc.disconnect()


class _RefusingRPC(LegacyRPC):
    """An end with one method, which every call is a call of."""

    def refuse_with(self, reason: Exception) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise reason

        self.add_service({"id": "built-in", "config": {"visibility": "public"}, "refuse": refuse}, overwrite=True)

    def _handle_method(self, data: dict[str, Any]) -> None:
        super()._handle_method({**data, "method": "services.built-in.refuse", "args": None, "with_kwargs": False})
