"""STAND-INS for a server and for a worker: what the loop for Slurm sees of them, and nothing else; no model runs.

    python stand_in.py worker URL --token-file FILE

The server counts who joined. A worker joins, beats, and at SIGTERM needs as many seconds for what it has in hand as
STAND_IN_SECONDS says.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_LEASE = 3.0  # seconds


class StandInServer:
    """Answers `GET /workers`; `waiting` is set by the test."""

    def __init__(self, token: str) -> None:
        self.waiting = 0
        self.seen: dict[str, float] = {}
        self._states: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(outer.figures())

            def do_POST(self) -> None:
                _, _, name, what = self.path.split("/")
                outer.hear(name, what)
                self._answer({})

            def _answer(self, body: dict[str, Any]) -> None:
                right = self.headers.get("Authorization") == f"Bearer {token}"
                data = json.dumps(body).encode()
                self.send_response(200 if right else 401)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def hear(self, name: str, what: str) -> None:
        """A worker's word: join, drain, beat or leave."""
        if what == "leave":
            self._states.pop(name, None)
            return
        self.seen[name] = time.monotonic()
        self._states[name] = {"join": "ready", "drain": "draining"}.get(what) or self._states.get(name, "ready")

    @property
    def workers(self) -> dict[str, str]:
        """States of those whose lease has not run out."""
        return {name: state for name, state in [*self._states.items()] if time.monotonic() - self.seen[name] < _LEASE}

    def figures(self) -> dict[str, Any]:
        workers = [{"name": name, "state": state, "places": 4, "in_flight": 0} for name, state in self.workers.items()]
        return {"workers": workers, "waiting": self.waiting, "running": 0}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def worker(url: str, token: str) -> None:
    name = f"{socket.gethostname()}-{os.environ['SLURM_JOB_ID']}"
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())

    def tell(what: str) -> None:
        request = urllib.request.Request(f"{url}/workers/{name}/{what}", b"", {"Authorization": f"Bearer {token}"})
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(request, timeout=5).close()

    print(f"{name} joins", flush=True)
    tell("join")
    while not told.wait(0.5):
        tell("beat")
    print(f"{name} finishes", flush=True)
    deadline = time.monotonic() + float(os.environ.get("STAND_IN_SECONDS", "1"))
    tell("drain")
    while time.monotonic() < deadline:
        tell("beat")
        time.sleep(0.5)
    tell("leave")
    print(f"{name} ends", flush=True)


if __name__ == "__main__":
    assert sys.argv[1] == "worker" and sys.argv[3] == "--token-file", sys.argv
    worker(sys.argv[2], Path(sys.argv[4]).read_text().strip())
