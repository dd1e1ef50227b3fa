"""Security headers for every response, including refusals, that limit what a browser does with it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A response of the API is data: it must not be run, shown in a frame, or treated as another type. Pages of the server itself set
# their own policy.
SAFE_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    # This does not affect pages of other origins that use CORS; it stops pages that embed responses without CORS.
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
