"""A server's half of a cluster in this process: its routes for workers on a real port, in front of a dispatcher."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from bioengine_contract.manifest import Axis, Tensor, Weights
from bioengine_contract.shared_tensors import SharedTensors
from bioengine_server.access.errors import TokenOfClient
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.http.body_memory import BodyMemory
from bioengine_server.http.route_table import RouteTable
from bioengine_server.http.worker_routes import WorkerRoutes
from bioengine_server.network.ports import free_ports
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.worker_side.copies import ModelCopies
from bioengine_server.worker_side.jobs import Jobs
from bioengine_server.worker_side.puller import Puller
from bioengine_server.worker_side.server import Server
from bioengine_server.workers.links import Links
from bioengine_server.workers.protocol import Join
from bioengine_server.workers.worker import Worker
from starlette.applications import Starlette

from tests.unit.contract.packages import manifest
from tests.unit.server.test_dispatcher import store

SECRET = "f3c9a1d07be24586a1c2e3d4f5061728"


def refuse(token: str) -> None:
    raise TokenOfClient


class Hub:
    """The server's half."""

    def __init__(self, home: Path, local: Worker | None = None, **settings: Any) -> None:
        self.settings = Settings(home=home, offline=True, triton="workers", **settings)
        self.dispatcher = Dispatcher(self.settings, local, StoreService(self.settings), "")
        self.links = Links(refuse, SECRET)
        self.links.on_join, self.links.on_loss = self.dispatcher.pool.join, self.dispatcher.pool.leave
        routes = WorkerRoutes(self.links, self.dispatcher, self.settings, BodyMemory(1 << 30))
        self.app = Starlette(routes=list(RouteTable(routes.entries()).routes()))
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Hub]:
        server = uvicorn.Server(uvicorn.Config(self.app, "127.0.0.1", self.port, log_level="error", timeout_graceful_shutdown=1))
        tasks = [asyncio.create_task(server.serve()), asyncio.create_task(self.links.watch())]
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield self
        finally:
            server.should_exit = True
            await tasks[0]
            tasks[1].cancel()

    @contextlib.asynccontextmanager
    async def joined(self, name: str, worker: Worker, home: Path, **join: Any) -> AsyncIterator[Puller]:
        """A worker of the hub's, with a fake in place of its Triton."""
        for folder in ("models", "tensors"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        async with Server(self.url, SECRET, name) as server:
            jobs = Jobs(worker, ModelCopies(home / "models", True, server), SharedTensors(home / "tensors"))
            puller = Puller(server, lambda: a_join(**join), jobs, join.get("places", 4))
            puller.not_ready, puller.report = "", await worker.report()
            task = asyncio.create_task(puller.work(await puller.join()))
            while not self.dispatcher.pool.ready:
                await asyncio.sleep(0.01)
            try:
                yield puller
            finally:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled() and (error := task.exception()):
                    raise error


def a_join(**changes: Any) -> Join:
    import time
    import uuid

    from bioengine_contract.version import VERSION

    given = {"version": VERSION, "start": uuid.uuid4().hex, "host": "box", "time": time.time(), **changes}
    return Join.model_validate(given)


def home_of_hub(folder: Path) -> Path:
    """Of a server with two models, whose files workers copy."""
    axes = tuple(Axis(id, type, 1, 1) for id, type in (("batch", "batch"), ("y", "space"), ("x", "space")))
    tensor = Tensor("image", "float32", axes)
    store(folder, "shark", "otter")
    for id in ("shark", "otter"):
        files = {"a.onnx": b"weights of " + id.encode() * 1000, "docs/read me.md": b"how to"}
        package = folder / "models" / id / "1"
        for name, content in files.items():
            (package / name).parent.mkdir(exist_ok=True)
            (package / name).write_bytes(content)
        weights = {"onnx": Weights("a.onnx", "0")}
        written = manifest(tensor, id=id, version="1", outputs=(tensor,), weights=weights)
        hashes = {name: sha256(content) for name, content in files.items()}
        (package / "model.json").write_text(written.model_copy(update={"files": hashes}).model_dump_json())
    return folder


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
