"""A collection on loopback, in the layout of the public one, that can be told to fail."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bioengine_server.settings import Settings

CHUNK = 1000


class Mirror:
    """Serves `<packages>/<id>/<file>` as `/artifacts/<id>/files/<file>`, and JSON documents by their path."""

    def __init__(self, packages: Path) -> None:
        self.packages = packages
        self.asked: Counter[str] = Counter()
        """How often each path was asked for."""
        self.faults: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = {}
        """What to do instead of answering, by the end of the path."""
        self.documents: dict[str, Any] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, Any]:
        """The settings that make a server use this collection."""
        return {
            "BIOENGINE_COLLECTION_URL": f"{self.url}/artifacts/{{id}}/files/rdf.yaml",
            "BIOENGINE_COLLECTION_LISTING_URL": f"{self.url}/children",
            "BIOENGINE_ID_MAP_URL": f"{self.url}/id_map.json",
        }

    def settings(self, home: Path, **more: Any) -> Settings:
        """Those of a server that uses this collection, and has no environments: nothing is converted."""
        names = {name.removeprefix("BIOENGINE_").lower(): value for name, value in self.environment.items()}
        return Settings(home=home, **{"environments": home / "environments", **names, **more})

    def count(self, end: str) -> int:
        return sum(number for path, number in self.asked.items() if path.endswith(end))

    def __enter__(self) -> Mirror:
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked[self.path] += 1
                content = mirror._content(self.path.partition("?")[0])
                fault = next((fault for end, fault in mirror.faults.items() if self.path.endswith(end)), None)
                try:
                    if fault is not None:
                        fault(self, content or b"")
                    elif content is None:
                        status(404)(self, b"")
                    else:
                        answer(self, content)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _content(self, path: str) -> bytes | None:
        if path in self.documents:
            return json.dumps(self.documents[path]).encode()
        before, separator, file = path.removeprefix("/artifacts/").partition("/files/")
        found = self.packages / before / unquote(file)
        return found.read_bytes() if separator and found.is_file() else None


def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def status(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    def fault(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_error(code)

    return fault


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    def fault(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    return fault


def cut(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Promise all of it and hang up in the middle."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def wrong(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """As many other bytes."""
    answer(handler, bytes(len(content)))


def endless(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def drip(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """A byte now and then."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.1)


def once(fault: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """The fault at the first request only."""
    seen: list[bool] = []

    def first(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        if seen:
            answer(handler, content)
        else:
            seen.append(True)
            fault(handler, content)

    return first
