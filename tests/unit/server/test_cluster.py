"""Workers that dial in over HTTP: what they are given, what comes back, and what is refused; fakes in place of their Tritons."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from bioengine_contract.errors import RequestError
from bioengine_contract.manifest import Manifest, Weights
from bioengine_contract.operations import ModelProcess
from bioengine_contract.weights import CONVERTED
from bioengine_server.store import layout
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.worker_side import puller as puller_module
from bioengine_server.worker_side.puller import Puller
from bioengine_server.worker_side.server import Refused, Server
from bioengine_server.workers import link as link_module
from bioengine_server.workers.protocol import INSTANCE
from bioengine_server.workers.worker import ModelGone

from tests.unit.server.cluster import SECRET, Hub, a_join, home_of_hub, sha256
from tests.unit.server.test_dispatcher import IMAGE, FakeWorker, call, run

BIG = np.random.default_rng(0).random((1, 1024, 1500)).astype(np.float32)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return home_of_hub(tmp_path / "hub")


async def test_a_request_runs_on_a_worker_that_copies_the_model(home: Path, tmp_path: Path) -> None:
    worker = FakeWorker()
    async with Hub(home).running() as hub, hub.joined("box", worker, tmp_path / "box"):
        for image, shared in ((IMAGE, 0), (BIG, 1)):
            result = await hub.dispatcher.respond(_request("shark", image), call())
            assert result["success"] and np.array_equal(result["outputs"][0], image + 1)
            assert worker.shared == shared, "what is large went straight to a file"
            assert not list((tmp_path / "box" / "tensors").iterdir()), "which is gone with its request"
        copy, original = tmp_path / "box" / "models" / "shark" / "1", home / "models" / "shark" / "1"
        names = {file.relative_to(original) for file in original.rglob("*") if file.is_file()}
        assert names == {file.relative_to(copy) for file in copy.rglob("*") if file.is_file()}
        assert all((copy / name).read_bytes() == (original / name).read_bytes() for name in names)
        described = hub.dispatcher.workers()["workers"]
        assert [(each["name"], each["state"], each["models"]) for each in described] == [("box", "ready", ["shark"])]


def _request(id: str, image: np.ndarray) -> Any:
    from bioengine_contract.request import RunRequest

    return RunRequest.from_client({"model_id": id, "inputs": [image]})


async def test_a_copy_goes_on_where_it_was_interrupted_and_a_new_import_replaces_it(home: Path, tmp_path: Path) -> None:
    box, original = tmp_path / "box" / "models", home / "models" / "shark" / "1"
    fingerprint = sha256((original / "model.json").read_bytes())[:32]
    part = box / ".copies" / fingerprint / "a.onnx.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((original / "a.onnx").read_bytes()[:100])
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        assert (await run(hub.dispatcher))["success"]
        assert (box / "shark" / "1" / "a.onnx").read_bytes() == (original / "a.onnx").read_bytes()
        (original / "a.onnx").write_bytes(b"other weights")
        written = Manifest.model_validate_json((original / "model.json").read_text())
        files = {**written.files, "a.onnx": sha256(b"other weights")}
        (original / "model.json").write_text(written.model_copy(update={"files": files}).model_dump_json())
        assert (await run(hub.dispatcher))["success"]
        assert (box / "shark" / "1" / "a.onnx").read_bytes() == b"other weights"
        assert list((box / ".copies").iterdir()) == []


async def test_an_old_copy_is_removed_whatever_happens_meanwhile(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full, the names may not be written; what a killed worker has put aside goes with the next copy."""
    box = tmp_path / "box" / "models"
    other = box / "shark" / "1"
    other.mkdir(parents=True)
    (other / "large").touch()
    (box / ".incoming-0123456789ab").mkdir()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        with monkeypatch.context() as patch:
            patch.setattr(layout, "write_aliases", full)
            result = await run(hub.dispatcher)
            assert "the worker's store cannot be written (No space left on device)" in result["error"]
        assert [file for file in box.rglob("*") if file.name == "large"] == []
        assert list(box.glob(".copies/*")) + list(box.glob(".incoming-*")) == []
        assert (other / "a.onnx").exists()


async def test_converted_weights_are_copied_too_and_results_name_them(home: Path, tmp_path: Path) -> None:
    original = home / "models" / "shark" / "1"
    (original / CONVERTED).write_bytes(b"made of a.onnx")
    written = Manifest.model_validate_json((original / "model.json").read_text())
    made = Weights(CONVERTED, sha256(b"made of a.onnx"), converted_from="pytorch_state_dict")
    (original / "model.json").write_text(written.model_copy(update={"weights": {"onnx": made}}).model_dump_json())
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        result = await run(hub.dispatcher)
        assert result["weight_format"] == "onnx (converted from pytorch_state_dict)"
        assert (tmp_path / "box" / "models" / "shark" / "1" / CONVERTED).read_bytes() == b"made of a.onnx"


async def test_a_damaged_file_is_not_taken(home: Path, tmp_path: Path) -> None:
    (home / "models" / "shark" / "1" / "a.onnx").write_bytes(b"damaged")
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        result = await run(hub.dispatcher)
        assert result["code"] == "model_not_loaded" and "SHA-256" in result["error"]
        assert not (tmp_path / "box" / "models" / "shark").exists()
        assert (await run(hub.dispatcher, "otter"))["success"]


async def test_what_goes_wrong_there_comes_back_as_it_is(home: Path, tmp_path: Path) -> None:
    worker = FakeWorker()
    async with Hub(home).running() as hub, hub.joined("box", worker, tmp_path / "box"):
        worker.failures = [RequestError("too small")]
        result = await run(hub.dispatcher)
        assert (result["error"], result["code"]) == ("too small", "request_failed")
        worker.failures = [ModelGone("its process was killed")]
        assert (await run(hub.dispatcher))["success"] and len(worker.loads) == 2, "loaded again, and run once more"
        worker.failures = [ModelGone("its process was killed"), ModelGone("its process was killed")]
        assert (await run(hub.dispatcher))["code"] == "model_process_died"
        worker.failures = [TritonUnavailable("it is starting")]
        assert (await run(hub.dispatcher))["success"]
        worker.processes = {"shark": ModelProcess(state="ended", reason="killed")}


async def test_without_a_worker_requests_wait_and_are_told(home: Path, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    hub = Hub(home, worker_wait=0.3)
    result = await run(hub.dispatcher, by=call(progress=told.append))
    assert result["code"] == "no_worker" and "bioengine workers" in result["error"]
    hub = Hub(home)
    async with hub.running():
        waiting = asyncio.create_task(run(hub.dispatcher, by=call(progress=told.append)))
        await asyncio.sleep(0.2)
        assert hub.dispatcher.workers()["waiting"] == 1 and next(iter(hub.dispatcher.jobs)).state == "waiting for a worker"
        async with hub.joined("box", FakeWorker(), tmp_path / "box"):
            assert (await waiting)["success"] and hub.dispatcher.workers()["waiting"] == 0


@pytest.mark.parametrize("lost", [1, 2])
async def test_what_a_lost_worker_had_runs_on_another_but_not_on_a_third(home: Path, tmp_path: Path, lost: int) -> None:
    workers = {name: FakeWorker() for name in ("one", "two", "three")}
    for worker in workers.values():
        worker.gate = asyncio.Event()
    async with Hub(home).running() as hub, contextlib.AsyncExitStack() as joined:
        for name, worker in workers.items():
            await joined.enter_async_context(hub.joined(name, worker, tmp_path / name))
        await _ready(hub, 3)
        task = asyncio.create_task(run(hub.dispatcher))
        for _ in range(lost):
            name = await _at_work(workers)
            del workers[name]
            hub.links._end(next(link for link in hub.links.all() if link.name == name), "it is killed")
        if lost == 2:
            result = await task
            assert result["code"] == "workers_lost" and "not tried on a third" in result["error"]
            return
        gate = workers[await _at_work(workers)].gate
        assert gate is not None
        gate.set()
        assert (await task)["success"]


async def _ready(hub: Hub, number: int) -> None:
    async with asyncio.timeout(10):
        while hub.dispatcher.pool.ready < number:
            await asyncio.sleep(0.05)


async def _at_work(workers: dict[str, FakeWorker]) -> str:
    async with asyncio.timeout(10):
        while not (busy := [name for name, worker in workers.items() if worker.at_once > 0]):
            await asyncio.sleep(0.02)
    return busy[0]


async def test_a_worker_that_leaves_finishes_and_does_not_join_again(home: Path, tmp_path: Path) -> None:
    async with Hub(home).running() as hub:
        worker = FakeWorker()
        async with hub.joined("box", worker, tmp_path / "box", start="0" * 32) as puller:
            assert (await run(hub.dispatcher))["success"]
            worker.gate = asyncio.Event()
            running = asyncio.create_task(run(hub.dispatcher))
            await _at_work({"box": worker})
            hub.dispatcher.pool.drain("box")
            async with asyncio.timeout(5):
                await puller.leaving.wait()
            late = asyncio.create_task(run(hub.dispatcher))
            worker.gate.set()
            assert (await running)["success"], "what it had is finished"
            async with asyncio.timeout(5):
                while hub.links.all():
                    await asyncio.sleep(0.02)
            async with Server(hub.url, SECRET, "box") as server:
                with pytest.raises(Refused, match="has left"):
                    await server.join(a_join(start="0" * 32))
            assert not late.done()
            async with hub.joined("box", FakeWorker(), tmp_path / "again"):
                assert (await late)["success"]


@pytest.mark.parametrize("beats", [0.2, 60.0])
async def test_a_worker_that_was_not_heard_joins_again_and_its_late_answer_counts_for_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats: float
) -> None:
    monkeypatch.setattr(puller_module, "BEAT_INTERVAL", beats)  # who finds out first: the beats, or those who take work
    monkeypatch.setattr(link_module, "LEASE", 30.0)
    async with Hub(home).running() as hub:
        slow, other = FakeWorker(), FakeWorker()
        async with hub.joined("slow", slow, tmp_path / "slow"):
            await run(hub.dispatcher)
            slow.gate = asyncio.Event()
            task = asyncio.create_task(run(hub.dispatcher))
            await _at_work({"slow": slow})
            async with hub.joined("other", other, tmp_path / "other"):
                (link,) = (link for link in hub.links.all() if link.name == "slow")
                hub.links._end(link, "it is not heard any more")
                assert (await task)["success"] and other.inferred == ["shark"]
                slow.gate.set()
                async with asyncio.timeout(10):
                    while not any(link.name == "slow" for link in hub.links.all()):
                        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "0.0.1"}, "version 0.0.1"),
        ({"time": 0.0}, "clock of the worker's machine .* behind"),
        ({"problem": "BIOENGINE_ACCELERATOR=cuda, but no GPU is there."}, "no GPU is there"),
    ],
)
async def test_who_may_not_join_is_told_why_on_both_sides(
    home: Path, change: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hub(home).running() as hub, Server(hub.url, SECRET, "box") as server:
        with pytest.raises(Refused, match=reason):
            await server.join(a_join(**change))
        assert "refused" in caplog.text and hub.links.all() == []


async def test_a_name_that_is_taken_and_tokens_that_open_nothing(home: Path, tmp_path: Path) -> None:
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        async with Server(hub.url, SECRET, "box") as server:
            with pytest.raises(Refused, match=r"already, on box.* --name"):
                await server.join(a_join())
        for token in ("wrong", "Ω", ""):
            async with Server(hub.url, token or "x", "other") as server:
                with pytest.raises(Refused):
                    await server.join(a_join())
        paths = ("", "/box/take", "/models/shark/1/model.json", "/box/join", "/box/beat", "/box/leave", f"/box/answer/{'0' * 32}")
        async with aiohttp.ClientSession() as session:
            for path in paths:
                method = "GET" if path in paths[:3] else "POST"
                async with session.request(
                    method, f"{hub.url}/workers{path}", data=None if method == "GET" else b"{}"
                ) as response:
                    assert response.status == 401 and (await response.json())["code"] == "worker_token_needed", path


async def test_only_what_belongs_to_a_package_is_given(home: Path) -> None:
    (home / "secret").write_text("of the server")
    (home / "models" / "shark" / "1" / "not-in-the-manifest").write_text("mine")
    (home / "models" / "shark" / "1" / "docs" / "read me.md").unlink()
    (home / "models" / "shark" / "1" / "docs" / "read me.md").symlink_to(home / "secret")
    base = "/workers/models"
    wrong = (
        "shark/1/not-in-the-manifest", "shark/1/docs/read%20me.md", "shark/1/../../../secret", "shark/1/%2e%2e/%2e%2e/secret",
        "shark/2/model.json", "../secret", "whale/1/model.json", "shark/1/", f"shark/1/{home}/secret",
    )  # fmt: skip
    async with Hub(home).running() as hub, aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as session:
        from yarl import URL

        for path in wrong:
            async with session.get(URL(f"{hub.url}{base}/{path}", encoded=True)) as response:
                assert response.status == 404, path
        async with session.get(f"{hub.url}{base}/shark/1/a.onnx", headers={"Range": "bytes=3-"}) as response:
            assert response.status == 206 and await response.read() == (home / "models/shark/1/a.onnx").read_bytes()[3:]


async def test_a_look_at_the_work_takes_none(home: Path, tmp_path: Path) -> None:
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        (link,) = hub.links.all()
        headers = {"Authorization": f"Bearer {SECRET}", INSTANCE: link.instance}
        async with aiohttp.ClientSession(headers=headers) as session, session.head(f"{hub.url}/workers/box/take") as response:
            assert response.status == 405


async def test_a_worker_leaves_also_where_the_server_is_away(home: Path, tmp_path: Path) -> None:
    hub = Hub(home)
    async with hub.running(), hub.joined("box", FakeWorker(), tmp_path / "box") as puller:
        puller._server.url = "http://127.0.0.1:9"
        puller.leaving.set()
        await asyncio.sleep(2)
    async with Server("http://127.0.0.1:9", SECRET, "box") as server:
        puller = Puller(server, a_join, puller._jobs, 1)
        puller.leaving.set()
        assert await puller.join() is None


async def test_a_server_that_stops_keeps_no_worker_waiting(home: Path, tmp_path: Path) -> None:
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box"):
        hub.links.close()
        async with asyncio.timeout(5):
            while not hub.links.all():  # it has not waited for its beat, or for something to do
                await asyncio.sleep(0.02)


async def test_a_job_that_did_not_reach_the_worker_runs_elsewhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke while it was handed over: the worker's beats do not have it in hand."""
    monkeypatch.setattr(link_module, "_IN_HAND_AFTER", 0.5)
    lost = 1

    async def losing(self: Puller, lane: Any, beside: Any, original: Any = Puller._take) -> None:
        nonlocal lost
        if lane == "runs" and lost and await self._server.take(lane, lambda number, dtype, shape: None) is not None:
            lost -= 1
            return
        await original(self, lane, beside)

    monkeypatch.setattr(Puller, "_take", losing)
    async with Hub(home).running() as hub, hub.joined("box", FakeWorker(), tmp_path / "box", places=1):
        async with asyncio.timeout(15):
            assert (await run(hub.dispatcher))["success"]
        assert lost == 0


async def test_cancelling_reaches_the_worker(home: Path, tmp_path: Path) -> None:
    worker = FakeWorker()
    async with Hub(home).running() as hub, hub.joined("box", worker, tmp_path / "box") as puller:
        await run(hub.dispatcher)
        worker.gate = asyncio.Event()
        task = asyncio.create_task(run(hub.dispatcher))
        await _at_work({"box": worker})
        (job,) = hub.dispatcher.jobs
        hub.dispatcher.jobs.cancel(job.task_id, "its caller")
        assert (await task)["code"] == "cancelled"
        async with asyncio.timeout(5):
            while not all(followed.stopped.is_set() for followed in puller._in_hand.values()):
                await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            while not worker.ended:
                await asyncio.sleep(0.05)
        worker.gate.set()
