"""Requests that nobody wants any more; on a fake worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.access.caller import Caller
from bioengine_server.access.rules import Access
from bioengine_server.dispatch import dispatcher as dispatcher_module
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.errors import NoSuchJob, RefusedArgument
from bioengine_server.dispatch.jobs import Job
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.workers.worker import ModelGone

from tests.unit.server.test_dispatcher import FakeWorker, Make, call, local, make, run

__all__ = ["make"]


async def started(dispatcher: Dispatcher, worker: FakeWorker, **by: Any) -> tuple[asyncio.Task[dict[str, Any]], Job]:
    """A request that is at work."""
    await run(dispatcher)
    worker.gate = asyncio.Event()
    task = asyncio.create_task(run(dispatcher, by=call(**by)))
    await asyncio.sleep(0.2)
    (job,) = dispatcher.jobs
    assert job.state == "running" and job.works_on is not None and job.works_on.model.name == "shark"
    return task, job


async def test_what_waits_is_not_run(make: Make) -> None:
    dispatcher, worker = make(model_concurrency=1)
    first, _ = await started(dispatcher, worker)
    second = asyncio.create_task(run(dispatcher))
    await asyncio.sleep(0.2)
    _, job = dispatcher.jobs
    assert (job.state, job.details["position"]) == ("queued", 1) and job.details["estimate"] >= 0
    dispatcher.jobs.cancel(job.task_id, "its caller")
    result = await second
    assert (result["code"], result["task_id"]) == ("cancelled", job.task_id) and "by its caller" in result["error"]
    assert worker.gate is not None
    worker.gate.set()
    assert (await first)["success"] and worker.inferred == ["shark"] * 2 and worker.ended == []


async def test_a_long_run_is_ended_with_its_process(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "_NOTICES_WITHIN", 0.05)
    dispatcher, worker = make()
    task, job = await started(dispatcher, worker)
    dispatcher.jobs.cancel(job.task_id, "the server's admin")
    result = await task
    assert result["code"] == "cancelled" and worker.ended == [], "the answer does not wait for the process"
    await asyncio.sleep(0.1)
    assert worker.ended == ["shark"] and dispatcher.queue.running == 1
    assert worker.gate is not None
    worker.failures = [ModelGone("its process was killed")]
    worker.gate.set()
    await asyncio.sleep(0.05)
    assert dispatcher.queue.running == 0 and worker.loads == ["shark"], "nothing is loaded for nobody"
    worker.gate = None
    assert (await run(dispatcher))["success"] and worker.loads == ["shark", "shark"]


async def test_requests_beside_an_ended_run_are_run_again_however_often(make: Make) -> None:
    dispatcher, worker = make()
    task, _ = await started(dispatcher, worker)
    for _ in range(3):
        gate = worker.gate
        assert gate is not None
        await local(dispatcher).end("shark")
        worker.failures, worker.gate = [ModelGone("its process was killed")], asyncio.Event()
        gate.set()
        await asyncio.sleep(0.05)
        assert not task.done()
    worker.gate.set()
    assert (await task)["success"] and len(worker.loads) == 4


async def test_those_who_leave_end_their_runs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "_NOTICES_WITHIN", 0.05)
    dispatcher, worker = make()
    here = [True]
    task, _ = await started(dispatcher, worker, connected=lambda: here[0])
    upkeep = asyncio.create_task(dispatcher.upkeep.run(0.01))
    await asyncio.sleep(0.05)
    assert not task.done()
    here[0] = False
    assert (await task)["code"] == "caller_gone"
    await asyncio.sleep(0.1)
    assert worker.ended == ["shark"]
    upkeep.cancel()


async def test_nobody_cancels_for_others(make: Make) -> None:
    dispatcher, worker = make()
    task, job = await started(dispatcher, worker, token="ada")
    service = TritonClient(dispatcher, None, Access(dispatcher._settings, None), "")  # type: ignore[arg-type]

    def context(token: str, user: str = "user") -> dict[str, Any]:
        return Caller(user, "ws", "client", token=token).to_context()

    for other in (context("bob"), context(""), context("", "another")):
        with pytest.raises(NoSuchJob, match="no request"):
            await service.cancel(job.task_id, context=other)
    for wrong in (None, "", 5):
        with pytest.raises(RefusedArgument, match="expected the task_id"):
            await service.cancel(wrong, context=context("ada"))
    with pytest.raises(NoSuchJob):
        await service.cancel("x" * 1000, context=context("ada"))
    assert await service.cancel(task_id=job.task_id, context=context("ada")) == {"cancelled": job.task_id}
    assert (await task)["code"] == "cancelled"
    with pytest.raises(NoSuchJob):
        await service.cancel(job.task_id, context=context("ada"))


async def test_what_becomes_of_each_request_is_told_at_its_end(make: Make, tmp_path: Path) -> None:
    dispatcher, _ = make()
    ended: list[Job] = []
    dispatcher.jobs.on_end(ended.append)
    await run(dispatcher), await run(dispatcher, "no-such-shark")
    assert [(job.model, job.outcome) for job in ended] == [("shark", "done"), ("no-such-shark", "model_not_found")]
    assert ended[0].shapes == ((1, 4, 4),) and ended[0].size == 64 and {"loading", "running"} <= set(ended[0].seconds)
    assert list(dispatcher.jobs) == []


async def test_of_several_that_a_process_dies_with_one_is_to_blame(make: Make) -> None:
    dispatcher, worker = make()
    first, _ = await started(dispatcher, worker)
    second, third = (asyncio.create_task(run(dispatcher)) for _ in range(2))
    await asyncio.sleep(0.2)
    died, gate = ModelGone("its process crashed"), worker.gate
    worker.failures, worker.gate = [died, died, died, died], None
    assert gate is not None
    gate.set()
    results = await asyncio.gather(first, second, third)
    assert sorted(result.get("code", "") for result in results) == ["", "", "model_process_died"]
    assert worker.most_at_once == 3 and len(worker.loads) == 3


async def test_who_waits_for_a_download_is_answered_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, _ = make()
    told: list[dict[str, Any]] = []

    async def fetch(id: str, caller: Any, progress: Any, *_: object) -> None:
        for done in range(1000):
            progress("weights.onnx", done, 1000)
        progress("weights.onnx", 1000, 1000)
        await asyncio.Event().wait()

    monkeypatch.setattr(dispatcher._store, "fetch", fetch)
    by = call(progress=told.append)
    async with by.progress:
        task = asyncio.create_task(run(dispatcher, "whale", by=by))
        await asyncio.sleep(0.05)
        (job,) = dispatcher.jobs
        assert job.state == "downloading" and job.details == {"file": "weights.onnx", "bytes": 1000, "total": 1000}
        dispatcher.jobs.cancel(job.task_id, "its caller")
        assert (await task)["code"] == "cancelled"
    assert [event.get("bytes") for event in told] == [None, 0, 1000], "not of each piece"
