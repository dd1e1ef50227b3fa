"""Clients that are gone without a word: a laptop that was closed, a cable that was pulled. Nobody is told of those."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Patience:
    """ASGI middleware that takes a client which is silent amid its request, or takes nothing of the answer, for gone."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        uploading = True
        gone = False

        async def receive_in_time() -> Message:
            nonlocal uploading
            if not uploading:
                return await receive()
            try:
                async with asyncio.timeout(self._seconds):
                    message = await receive()
            except TimeoutError:
                message = {"type": "http.disconnect"}
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
