"""Answers of workers that are wrong, and requests of theirs that are none; fakes in place of their Tritons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from bioengine_contract.manifest import Manifest
from bioengine_contract.model_errors import Cancelled
from bioengine_contract.operations import ModelProcess
from bioengine_contract.store import resolve
from bioengine_contract.triton_model import triton_model
from bioengine_server.dispatch import dispatcher as dispatcher_module
from bioengine_server.worker_side.jobs import Followed
from bioengine_server.worker_side.server import Server, ServerAway
from bioengine_server.workers.link import Link
from bioengine_server.workers.parcel import Parcel
from bioengine_server.workers.protocol import INSTANCE, Beat
from bioengine_server.workers.remote_worker import RemoteWorker

from tests.unit.server.cluster import SECRET, Hub, a_join, home_of_hub
from tests.unit.server.test_dispatcher import IMAGE, FakeWorker, run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return home_of_hub(tmp_path / "hub")


async def test_nonsense_of_a_worker_is_refused_and_the_next_request_works(home: Path, tmp_path: Path) -> None:
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        (link,) = hub.links.all()
        headers = {"Authorization": f"Bearer {SECRET}", INSTANCE: link.instance}
        async with aiohttp.ClientSession(headers=headers) as session:
            answer = f"{hub.url}/workers/box/answer/{'0' * 32}"
            for body in (b"", b"\0\0\0\2{}", b"\xff\xff\xff\xff", _parcel([{"dtype": "|O", "shape": [1]}]), _parcel([], 1 << 40)):
                async with session.post(answer, data=body) as response:
                    assert response.status == 400, body[:40]
            for body in (b"{", b"[]", b'{"tiles": {"a": 1}}', json.dumps({"not_ready": "x" * 1000}).encode()):
                async with session.post(f"{hub.url}/workers/box/beat", data=body) as response:
                    assert response.status == 400, body[:40]
            async with session.post(f"{hub.url}/workers/box/beat", headers={INSTANCE: "old"}, data=b"{}") as response:
                assert response.status == 410
        assert (await run(hub.dispatcher))["success"]


@pytest.mark.parametrize("answer", ["<html>The server is being maintained.</html>", "[]", '{"instance": 1}', "\0", ""])
async def test_what_something_else_answers_ends_no_worker(answer: str) -> None:
    """Such as a proxy, with 200: the worker asks again, as where nothing answers."""

    async def maintained(_request: web.Request) -> web.Response:
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", maintained)
    async with TestServer(app) as proxy, Server(str(proxy.make_url("")), SECRET, "box") as server:
        with pytest.raises(ServerAway, match="its answer is none of a BioEngine server: "):
            await server.join(a_join())
        if not answer.startswith('{"'):  # orders may be empty
            with pytest.raises(ServerAway, match="its answer is none of a BioEngine server: "):
                await server.beat(Beat())


def _parcel(arrays: list[Any], body: int = 0) -> bytes:
    head = json.dumps({"header": {}, "arrays": arrays, "body": body}).encode()
    return len(head).to_bytes(4, "big") + head


async def test_a_worker_gives_the_outputs_that_are_asked_for(home: Path, tmp_path: Path) -> None:
    file = home / "models" / "shark" / "1" / "model.json"
    written = Manifest.model_validate_json(file.read_text())
    (image,) = written.outputs
    file.write_text(written.model_copy(update={"outputs": (image, replace(image, id="mask"))}).model_dump_json())
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        result = await run(hub.dispatcher, outputs=["mask"])
        assert result["success"] and np.array_equal(result["outputs"], [IMAGE + 1])
        assert (await run(hub.dispatcher))["code"] == "workers_lost", "of this fake, which gives one output, and not two"


async def test_three_wrong_answers_and_it_is_drained(home: Path, tmp_path: Path) -> None:
    class Wrong(FakeWorker):
        """A fake that answers with something else than was asked."""

        async def infer(self, *arguments: Any, **_: Any) -> list[np.ndarray]:
            return [np.zeros((2, 2), np.int64)]

    async with Hub(home).running() as hub, hub.joined("wrong", Wrong(), tmp_path / "wrong"):
        (link,) = hub.links.all()
        assert (await run(hub.dispatcher))["code"] == "workers_lost" and not link.drained, "tried twice"
        waiting = asyncio.create_task(run(hub.dispatcher))
        async with asyncio.timeout(10):
            while not link.drained:
                await asyncio.sleep(0.02)
        async with hub.joined("right", FakeWorker(), tmp_path / "right"):
            assert (await waiting)["success"] and (await run(hub.dispatcher))["success"]


async def test_what_was_cancelled_before_the_worker_took_it_holds_no_place_and_ends_nobodys_process(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_NOTICES_WITHIN", 2.0)
    worker = FakeWorker()
    async with Hub(home).running() as hub, hub.joined("box", worker, tmp_path / "box", places=1):
        await run(hub.dispatcher)
        worker.gate = asyncio.Event()
        first = asyncio.create_task(run(hub.dispatcher))
        while not worker.at_once:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(run(hub.dispatcher))
        while hub.dispatcher.queue.running < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        hub.dispatcher.jobs.cancel(list(hub.dispatcher.jobs)[1].task_id, "its caller")
        assert (await second)["code"] == "cancelled"
        async with asyncio.timeout(5):
            while hub.dispatcher.queue.running > 1:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2.2)
        worker.gate.set()
        assert (await first)["success"] and worker.ended == [], "the process is another request's"


async def test_a_job_that_cannot_be_sent_fails(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        await run(hub.dispatcher)

        def parts(self: Parcel, original: Any = Parcel.parts) -> Any:
            if self.arrays:
                raise MemoryError
            return original(self)

        monkeypatch.setattr(Parcel, "parts", parts)
        async with asyncio.timeout(5):
            assert (await run(hub.dispatcher))["code"] == "server_failed"


async def test_a_report_is_learnt_once_and_memory_of_what_is_gone_is_free(home: Path, tmp_path: Path) -> None:
    worker = FakeWorker()
    async with Hub(home).running() as hub, hub.joined("box", worker, tmp_path / "box") as puller:
        pool = hub.dispatcher.pool
        await run(hub.dispatcher)
        worker.processes["shark"] = ModelProcess(state="open", memory=5_000_000_000)
        puller.report = await worker.report()
        async with asyncio.timeout(5):
            while not pool.held.host:
                await asyncio.sleep(0.05)
        assert await pool.unload("shark")
        await asyncio.sleep(1.5)
        assert not pool.held.host, "the next beat brought no report"
        puller.report = await worker.report()  # from before it was unloaded, and late
        async with asyncio.timeout(5):
            while not pool.held.host:
                await asyncio.sleep(0.05)
        worker.processes.clear()
        puller.report = await worker.report()
        async with asyncio.timeout(5):
            while pool.held.host:
                await asyncio.sleep(0.05)


async def no_body() -> AsyncIterator[bytes]:
    yield b""


@pytest.mark.parametrize("state", ["waits", "is being sent", "is there"])
async def test_what_is_cancelled_before_the_worker_has_all_of_it_is_over_at_once(state: str, home: Path) -> None:
    link, followed, model = Link("box", a_join()), Followed(), triton_model(resolve(home / "models", "shark"))
    asked = asyncio.create_task(RemoteWorker(link).forward(model, "", no_body, {}, followed))
    await asyncio.sleep(0.01)
    given = None if state == "waits" else await link.take("runs", 1)
    followed.stopped.set()
    in_hand = [given.id] if given is not None and state == "is there" else []
    orders = link.beat(Beat(in_hand=in_hand))
    await asyncio.wait({asked}, timeout=0.1)
    if state == "is there":
        assert orders.stop == in_hand and not asked.done()
        asked.cancel()
    else:
        with pytest.raises(Cancelled):
            await asked
