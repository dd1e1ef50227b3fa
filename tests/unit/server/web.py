"""The server's HTTP in this process: its real table of routes and middleware, in front of fakes.

Fakes, which say so: Hypha's application (`hypha`), which answers whatever reaches it, so that a test sees what does; the worker,
which runs nothing; and the Triton behind `/triton`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from bioengine_server.http.health import Health
from bioengine_server.http.routes import add_web
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.hypha.tokens import sign, use_secret
from bioengine_server.service.readiness import Liveness, Readiness
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.workers.links import Links
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.unit.server.test_refusals import FakeTriton, Server

HOST = "127.0.0.1:9520"
REACHED = "a fake of Hypha was reached"
CONFIG = {
    "backend": "python",
    "max_batch_size": 4,
    "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": ["-1", "-1"]}],
    "output": [{"name": "text", "data_type": "TYPE_STRING", "dims": ["1"]}],
}


class FakeContent:
    """The body of a fake answer of Triton."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        yield self._data

    async def readexactly(self, size: int) -> bytes:
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def read(self) -> bytes:
        taken, self._data = self._data, b""
        return taken

    def at_eof(self) -> bool:
        return not self._data


class FakeAnswer:
    """A fake answer of Triton, as aiohttp would give it."""

    status = 200

    def __init__(self, data: bytes, headers: Mapping[str, str]) -> None:
        self.content = FakeContent(data)
        self.headers = {"content-length": str(len(data)), "server": "a fake Triton", **headers}
        self.is_released = False
        self._data = data

    async def json(self, content_type: str | None = None) -> Any:
        return json.loads(self._data)

    def release(self) -> None:
        self.is_released = True

    close = release


class WebTriton(FakeTriton):
    """A fake Triton, asked over HTTP: it is live, and has what it was asked for in `asked`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.is_away = False

    async def open(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> FakeAnswer:
        self.asked.append((method, path))
        if self.is_away:
            raise TritonUnavailable("ConnectionRefusedError")
        about = {"name": "triton", "version": "2.51.0", "extensions": ["statistics", "trace", "binary_tensor_data"]}
        return FakeAnswer(json.dumps(about).encode(), {"content-type": "application/json"})

    async def is_ready(self, name: str) -> bool:
        return name == "own"


def hypha() -> FastAPI:
    """A fake of Hypha's application."""
    app = FastAPI(openapi_url=None)

    async def reached(request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse({"reached": REACHED, "path": request.url.path, "size": len(body)})

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await websocket.receive_text()
            await websocket.send_json({"reached": REACHED})
            await websocket.close()

    app.add_api_route("/{path:path}", reached, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    app.add_api_websocket_route("/{path:path}", echo)
    return app


class Web:
    """The HTTP of one server."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.triton = WebTriton()
        self.server = Server(home, triton=self.triton, **settings)
        described = home / "models" / "shark" / "1" / "model.json"
        described.write_text(json.dumps({**json.loads(described.read_text()), "triton_config": CONFIG}))
        use_secret(new_secret())
        self.readiness = Readiness()
        authenticator = Authenticator(self.server.access, self.server.registry)
        server, pool = self.server, self.server.service.dispatcher.pool
        health = Health(self.readiness, Liveness(), "the server's name", lambda: pool.ready)
        links = Links(authenticator.verifier.check_worker)
        links.on_join, links.on_loss = pool.join, pool.leave
        self.app = add_web(hypha(), server.settings, authenticator, health, server.metrics, server.service, links)

    async def token(self, name: str = "ada", **limits: Any) -> dict[str, str]:
        """The header with a new token."""
        token = await asyncio.to_thread(sign, self.server.registry.create(name, 1, **limits))
        return {"Authorization": f"Bearer {token}"}

    def client(self, peer: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(peer, 5), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}")

    async def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> httpx.Response:
        """The answer to a request whose path is sent as it stands, whatever it is. `body`: bytes, or a list of parts."""
        parts = body if isinstance(body, list) else [body]
        events = [
            {"type": "http.request", "body": part, "more_body": number < len(parts) - 1} for number, part in enumerate(parts)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            if events:
                return events.pop(0)
            await asyncio.sleep(60)  # nothing more comes, and the client stays
            return {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            sent.append(event)

        await self.app({**_scope("http", path, headers), "method": method}, receive, send)
        start = sent[0]
        content = b"".join(event.get("body", b"") for event in sent[1:])
        return httpx.Response(start["status"], headers=start["headers"], content=content)

    async def connect(self, path: str, texts: list[str], extensions: Any = None, **headers: str) -> list[Any]:
        """What a websocket is sent that sends these texts, and then waits for its end."""
        events: list[Any] = [{"type": "websocket.connect"}, *({"type": "websocket.receive", "text": text} for text in texts)]
        sent: list[Any] = []

        async def receive() -> Any:
            if events:
                return events.pop(0)
            await asyncio.sleep(0.05)
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(event: Any) -> None:
            sent.append(event)

        scope = {**_scope("websocket", path, headers), "subprotocols": [], "extensions": extensions or {}}
        await self.app(scope, receive, send)
        return sent


def _scope(kind: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    raw, _, query = path.partition("?")
    given = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http" if kind == "http" else "ws",
        "path": unquote(raw), "raw_path": raw.encode("latin-1"), "query_string": query.encode(), "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 9520), "state": {}, "extensions": {},
    }  # fmt: skip
