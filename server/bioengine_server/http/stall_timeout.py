"""Time limits for clients that disappear without closing the connection, such as a closed laptop or an unplugged cable.

They also end requests of clients that send very slowly: a body must arrive at a minimum rate.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MIN_RATE = 10_000  # bytes per second of a body, on average, after the allowed time of silence


class StallTimeout:
    """ASGI middleware that treats a client as disconnected if it stalls while it sends its request or reads the response."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        uploading = True
        gone = False
        waited, taken = 0.0, 0

        async def receive_in_time() -> Message:
            nonlocal uploading, waited, taken
            if not uploading:
                return await receive()
            begun = time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, min(self._seconds, self._seconds + taken / _MIN_RATE - waited))):
                    message = await receive()
            except TimeoutError:
                message = {"type": "http.disconnect"}
            waited += time.monotonic() - begun
            taken += len(message.get("body", b""))
            uploading = message.get("more_body", False)
            return message

        async def send_in_time(message: Message) -> None:
            nonlocal gone
            if gone:
                return
            try:
                async with asyncio.timeout(self._seconds):
                    await send(message)
            except TimeoutError:
                gone = True

        await self._app(scope, receive_in_time, send_in_time)
