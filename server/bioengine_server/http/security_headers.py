"""Headers of every answer, refusals included, that bound what a browser does with it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# An answer of the API is data: nothing in it is run, shown in a frame, or taken for another type. A page of the server's own
# sets its own policy.
SAFE_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # Pages of other origins read answers by CORS, which this does not touch; it stops what embeds them without asking.
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

_STARTS = ("http.response.start", "websocket.http.response.start")


class SafeAnswers:
    """ASGI middleware, outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safe(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = list(message.get("headers", []))
                given = {name.lower() for name, _ in headers}
                message = {**message, "headers": [*headers, *(header for header in SAFE_HEADERS if header[0] not in given)]}
            await send(message)

        await self._app(scope, receive, send if scope["type"] == "lifespan" else send_safe)
