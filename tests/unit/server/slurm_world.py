"""FAKE programs of Slurm (fake_slurm.py), and a server that answers with figures of the test's choice."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.slurm.loop import Loop
from bioengine_server.slurm.need import Need
from bioengine_server.slurm.queue import Queue
from bioengine_server.slurm.server import Server

FAKE = Path(__file__).with_name("fake_slurm.py")
TOKEN = "the-token"


class FakeSlurm:
    """Its queue, as the fake programs read and write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "fake_slurm.py"
        program.write_bytes(FAKE.read_bytes())
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            run = f'runpy.run_path("{program}")["main"]("{name}", sys.argv[1:])'
            (folder / name).write_text(f"#!{sys.executable} -IS\nimport runpy, sys\nsys.exit({run})\n")
            (folder / name).chmod(0o755)
        self.save({"jobs": [], "calls": [], "refuse": "", "away": False, "noise": "", "parameters": "preempt_send_user_signal"})

    def load(self) -> dict[str, Any]:
        return json.loads((self.folder / "queue.json").read_text())

    def save(self, queue: dict[str, Any]) -> None:
        (self.folder / "queue.json").write_text(json.dumps(queue))

    def set(self, **changes: Any) -> None:
        self.save({**self.load(), **changes})

    def job(self, number: int, **changes: Any) -> None:
        queue = self.load()
        for job in queue["jobs"]:
            if job["id"] == number:
                job.update(changes)
        self.save(queue)

    def begin(self, number: int, ends: float = 0.0) -> None:
        self.job(number, state="RUNNING", nodes="n1", reason="None", ends=int(ends) or "NONE")

    @property
    def states(self) -> dict[int, str]:
        return {job["id"]: job["state"] for job in self.load()["jobs"]}

    def calls(self, program: str) -> list[list[str]]:
        return [call[1:] for call in self.load()["calls"] if call[0] == program]


class FakeServer:
    """Answers `GET /workers` with `answer`, whatever else is asked with 404."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.status = 200
        self.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                right = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status = 404 if self.path != "/workers" else outer.status if right else 401
                body = json.dumps(outer.answer if status == 200 else {"error": "The token is not valid."}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def set(self, *workers: dict[str, Any], waiting: int = 0, running: int = 0) -> None:
        self.answer = {"workers": list(workers), "waiting": waiting, "running": running}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class World:
    """Fakes of Slurm and of the server, a clock, and the loop between them."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        self.slurm, self.server, self.now = FakeSlurm(folder / "bin"), FakeServer(), 1_800_000_000.0
        self.token_file = folder / "worker.token"
        self.token_file.write_text(TOKEN + "\n")
        self.token_file.chmod(0o600)
        self.queue = Queue("bioengine-lab", ["--gres=gpu:1"], folder / "worker.sbatch", ["bioengine", "worker", self.server.url])
        self.loop = self.started()

    def started(self) -> Loop:
        """A loop that has just been started."""
        need = Need(0, 2, idle=300)
        return Loop(Server(self.server.url, self.token_file), self.queue, need, overlap=600, clock=lambda: self.now)

    def step(self, after: float = 0.0) -> None:
        self.now += after
        self.loop.step()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    caplog.set_level(logging.INFO, "bioengine_server.slurm")
    world = World(tmp_path)
    yield world
    world.server.close()
