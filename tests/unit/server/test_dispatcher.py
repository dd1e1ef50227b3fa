"""The way of a request through the dispatcher: turn, loading, run, recovery; on a worker that fails on command."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract.errors import RequestError
from bioengine_contract.manifest import Axis, Tensor, Weights
from bioengine_contract.model_errors import EnvironmentGone, ModelNotLoaded, RunDirUnusable
from bioengine_contract.operations import ModelProcess, Report
from bioengine_contract.request import RunRequest
from bioengine_contract.shared_tensors import SharedArray
from bioengine_contract.triton_model import TritonModel
from bioengine_server.access.caller import Caller
from bioengine_server.dispatch.dispatcher import Call, Dispatcher
from bioengine_server.dispatch.loaded import LoadedModels
from bioengine_server.dispatch.progress import Progress
from bioengine_server.settings import Settings
from bioengine_server.store.layout import write_json
from bioengine_server.store.service import StoreService
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.workers.memory import Memory
from bioengine_server.workers.worker import Follower, ModelGone, Opened

from tests.unit.contract.packages import manifest

AXES = tuple(Axis(id, type, 1, 1) for id, type in (("batch", "batch"), ("y", "space"), ("x", "space")))
IMAGE = np.zeros((1, 4, 4), np.float32)


class FakeWorker:
    """A fake, since no real worker fails at will: it runs nothing, and adds 1 to images.

    `failures`: what the next inferences raise, None for those that succeed. `load_failures`: the same of loads.
    """

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.packages: list[str] = []
        self.shared = 0  # arrays that came in files
        self.ended: list[str] = []
        self.unloaded: list[str] = []
        self.inferred: list[str] = []
        self.failures: list[Exception | None] = []
        self.load_failures: list[Exception | None] = []
        self.memory = 0
        self.boot = "1"
        self.living = True
        self.processes: dict[str, ModelProcess] = {}
        self.gate: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0

    async def load(self, model: TritonModel) -> Opened:
        self.loads.append(model.name)
        self.packages.append(str(model.package.key))
        await asyncio.sleep(0.01)
        _fail(self.load_failures)
        return Opened(model.weight_formats[0], "cpu", memory=Memory(self.memory))

    async def unload(self, name: str) -> None:
        self.unloaded.append(name)

    def lives(self, opened: Opened) -> bool:
        return self.living

    async def end(self, name: str) -> None:
        self.ended.append(name)

    async def infer(
        self,
        model: TritonModel,
        arrays: Sequence[np.ndarray | SharedArray | None],
        parameters: Mapping[str, str],
        follower: Follower,
    ) -> list[np.ndarray]:
        self.inferred.append(model.name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            _fail(self.failures)
            self.shared += sum(isinstance(array, SharedArray) for array in arrays)
            read = [array.read() if isinstance(array, SharedArray) else array for array in arrays]
            return [array + 1 for array in read if array is not None]
        finally:
            self.at_once -= 1

    async def forward(self, *_: Any) -> Any:
        raise NotImplementedError

    async def report(self) -> Report:
        return Report(boot=self.boot, dead_instances=[], models=self.processes)

    async def wait_until_ready(self) -> None:
        pass


def _fail(failures: list[Exception | None]) -> None:
    """Raise the next one, which no variable here keeps: it ends in the request's own frames."""
    if failures and failures[0] is not None:
        raise failures.pop(0) or AssertionError
    del failures[:1]


def store(home: Path, *ids: str) -> None:
    """A store with packages of one input, whose files nobody opens here."""
    tensor = Tensor("image", "float32", AXES)
    weights = {"onnx": Weights("a.onnx", "0"), "torchscript": Weights("a.pt", "0")}
    for id in ids:
        folder = home / "models" / id / "1"
        folder.mkdir(parents=True)
        package = manifest(tensor, id=id, version="1", outputs=(tensor,), weights=weights)
        (folder / "model.json").write_text(package.model_dump_json())
    aliases = {id: f"{id}/1" for id in ids}
    (home / "models" / "aliases.json").write_text(json.dumps(aliases))


Make = Callable[..., tuple[Dispatcher, FakeWorker]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    store(tmp_path, "shark", "otter")

    def dispatcher(**settings: Any) -> tuple[Dispatcher, FakeWorker]:
        worker, chosen = FakeWorker(), Settings(home=tmp_path, offline=True, **settings)
        return Dispatcher(chosen, worker, StoreService(chosen), ""), worker

    return dispatcher


def local(dispatcher: Dispatcher) -> LoadedModels:
    """The models of the server's own worker."""
    assert dispatcher.pool.local is not None
    return dispatcher.pool.local


def call(token: str = "", connected: Callable[[], bool] = lambda: True, progress: Any = None) -> Call:
    return Call(Caller("user", "ws", "client", token=token, connected=connected), Progress(progress))


async def run(dispatcher: Dispatcher, id: str = "shark", by: Call | None = None, **options: Any) -> dict[str, Any]:
    request = RunRequest.from_client({"model_id": id, "inputs": [IMAGE], **options})
    return await dispatcher.respond(request, by or call())


async def test_a_model_is_loaded_once_for_all_who_ask_and_run(make: Make) -> None:
    dispatcher, worker = make()
    results = await asyncio.gather(*(run(dispatcher) for _ in range(20)))
    assert all(result["success"] for result in results) and worker.loads == ["shark"] and len(worker.inferred) == 20
    np.testing.assert_array_equal(results[0]["outputs"][0], IMAGE + 1)
    assert (results[0]["weight_format"], results[0]["device"]) == ("onnx", "cpu")
    assert len({result["task_id"] for result in results}) == 20


async def test_weights_that_were_asked_for_are_a_model_of_their_own(make: Make) -> None:
    dispatcher, worker = make()
    result = await run(dispatcher, weight_format="torchscript")
    assert result["weight_format"] == "torchscript" and worker.loads == ["shark--torchscript"]


async def test_a_process_that_dies_is_loaded_again_and_nobody_notices(make: Make) -> None:
    dispatcher, worker = make()
    await run(dispatcher)
    worker.failures = [ModelGone("its process was killed")]
    results = await asyncio.gather(*(run(dispatcher) for _ in range(4)))
    assert all(result["success"] for result in results) and worker.loads == ["shark", "shark"]


@pytest.mark.parametrize("seen", [True, False], ids=["before the run", "at the run"])
async def test_each_load_that_a_request_waits_for_is_told(make: Make, seen: bool) -> None:
    """Whenever its process is seen to be dead."""
    dispatcher, worker = make()
    await run(dispatcher)
    worker.living = not seen
    worker.failures = [] if seen else [ModelGone("its process was killed")]
    told: list[str] = []
    by = call(progress=lambda event: told.append(event["state"]))
    async with by.progress:
        assert (await run(dispatcher, by=by))["success"]
    assert told == ["queued", *([] if seen else ["running"]), "loading", "running"] and worker.loads == ["shark", "shark"]


async def test_all_who_meet_a_dead_process_wait_for_one_load(make: Make) -> None:
    dispatcher, worker = make()
    await run(dispatcher)
    worker.failures, worker.gate = [ModelGone("its process was killed")] * 4, asyncio.Event()
    tasks = [asyncio.create_task(run(dispatcher)) for _ in range(4)]
    await asyncio.sleep(0.02)
    worker.gate.set()
    results = await asyncio.gather(*tasks)
    assert all(result["success"] for result in results) and worker.loads == ["shark", "shark"]


async def test_who_kills_a_model_twice_is_told(make: Make) -> None:
    dispatcher, worker = make()
    worker.failures = [ModelGone("it is gone"), ModelGone("its process was killed, most likely because ...")]
    result = await run(dispatcher)
    assert result["code"] == "model_process_died" and "its process was killed" in result["error"] and result["task_id"]
    assert (await run(dispatcher))["success"], "and the next request works"


async def test_a_crowd_gets_one_failed_load_and_the_next_try_comes_later(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, worker = make()
    worker.load_failures = [ModelNotLoaded("shark", "it is broken")]
    results = await asyncio.gather(*(run(dispatcher) for _ in range(10)))
    assert all(result["code"] == "model_not_loaded" for result in results) and worker.loads == ["shark"]
    monkeypatch.setattr("bioengine_server.dispatch.loaded.FAILURE_REMEMBERED", 0.0)
    assert (await run(dispatcher))["success"] and worker.loads == ["shark", "shark"]


async def test_a_failure_of_the_servers_own_is_not_remembered(make: Make) -> None:
    dispatcher, worker = make()
    worker.load_failures = [EnvironmentGone("shark"), RunDirUnusable("shark", "it is full")]
    for code in ("environment_gone", "run_dir_unusable"):
        assert (await run(dispatcher))["code"] == code
    assert (await run(dispatcher))["success"]


async def test_another_import_ends_the_wait_after_a_failure_and_is_loaded(make: Make, tmp_path: Path) -> None:
    dispatcher, worker = make()
    worker.load_failures = [ModelNotLoaded("shark", "it is broken")]
    assert not (await run(dispatcher))["success"]
    file = tmp_path / "models" / "shark" / "1" / "model.json"
    file.write_text(file.read_text().replace("A shark", "A better shark"))
    assert (await run(dispatcher))["success"] and worker.loads == ["shark", "shark"]
    file.write_text(file.read_text().replace("better", "much better"))
    assert (await run(dispatcher))["success"] and worker.loads == ["shark"] * 3


async def test_who_waits_gets_what_the_id_means_when_the_turn_has_come(make: Make, tmp_path: Path) -> None:
    dispatcher, worker = make(model_concurrency=1)
    await run(dispatcher)
    worker.gate = asyncio.Event()
    tasks = [asyncio.create_task(run(dispatcher)) for _ in range(3)]
    await asyncio.sleep(0.02)
    folder = tmp_path / "models" / "shark"
    (folder / "2").mkdir()
    (folder / "2" / "model.json").write_text((folder / "1" / "model.json").read_text().replace('"version":"1"', '"version":"2"'))
    write_json(tmp_path / "models" / "aliases.json", {"shark": "shark/2", "shark/1": "shark/1", "shark/2": "shark/2"})
    worker.gate.set()
    assert all(result["success"] for result in await asyncio.gather(*tasks))
    assert worker.packages == ["shark/1", "shark/2"], "loaded once more, and not in turn with the one before"


@pytest.mark.parametrize(
    ("loads", "runs"),
    [
        ([ModelNotLoaded("shark", "it is broken")], []),
        ([], [RequestError("no such image")]),
        ([], [TritonUnavailable("it starts"), TritonUnavailable("it starts")]),
        ([], [RuntimeError("a fault of ours")]),
    ],
    ids=["load", "run", "triton", "fault"],
)
async def test_a_failure_keeps_no_images(
    make: Make, loads: list[Exception | None], runs: list[Exception | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until the garbage collector comes: many of them would fill the memory before it does."""
    monkeypatch.setattr(logging.getLogger("bioengine_server.dispatch.dispatcher"), "disabled", True)  # pytest keeps tracebacks
    dispatcher, worker = make()
    kept = []
    gc.disable()
    try:
        for _ in range(3):
            worker.load_failures, worker.failures = list(loads), list(runs)
            image = np.zeros((1, 4, 4), np.float32)
            kept.append(weakref.ref(image))
            request = RunRequest.from_client({"model_id": "shark", "inputs": [image]})
            assert not (await dispatcher.respond(request, call()))["success"]
            del image, request
            worker.load_failures = worker.failures = []
        del loads[:], runs[:]  # whose tracebacks end in the request
        await asyncio.sleep(0.01)
        assert [image() for image in kept] == [None] * 3
    finally:
        gc.enable()


async def test_a_run_that_takes_too_long_is_ended(make: Make) -> None:
    dispatcher, worker = make(run_timeout=0.05)
    worker.gate = asyncio.Event()
    result = await run(dispatcher)
    assert result["code"] == "run_took_too_long" and worker.ended == ["shark"]
    worker.gate = None
    assert (await run(dispatcher))["success"] and worker.loads == ["shark", "shark"]


async def test_a_triton_that_starts_again_has_no_models(make: Make) -> None:
    dispatcher, worker = make()
    local(dispatcher).learn(await worker.report())
    await run(dispatcher), await run(dispatcher, "otter")
    worker.failures, worker.boot = [TritonUnavailable("away")], "2"
    assert (await run(dispatcher))["success"] and (await run(dispatcher, "otter"))["success"]
    assert worker.loads == ["shark", "otter", "shark", "otter"]
    worker.failures = [TritonUnavailable("away"), TritonUnavailable("away")]
    assert (await run(dispatcher))["code"] == "inference_server_unavailable"


async def test_a_report_of_a_dead_process_has_it_loaded_before_the_next_run(make: Make) -> None:
    dispatcher, worker = make()
    await run(dispatcher), await run(dispatcher, "otter")
    states: dict[str, Any] = {"shark": "ended", "otter": "open", "other": "ended"}
    worker.processes = {name: ModelProcess(state=state) for name, state in states.items()}
    local(dispatcher).learn(await worker.report())
    await run(dispatcher), await run(dispatcher, "otter")
    assert worker.loads == ["shark", "otter", "shark"]


async def test_errors_of_the_model_are_the_clients(make: Make) -> None:
    dispatcher, worker = make()
    worker.failures = [RequestError("it does not like this image"), RuntimeError("a fault of ours")]
    result = await run(dispatcher)
    assert (result["success"], result["error"], result["code"]) == (False, "it does not like this image", "request_failed")
    result = await run(dispatcher)
    assert result["code"] == "server_failed" and result["task_id"] in result["error"] and "fault of ours" not in result["error"]
    assert worker.loads == ["shark"], "neither ends the model"


async def test_what_does_not_fit_reaches_no_worker(make: Make) -> None:
    dispatcher, worker = make()
    cases: Any = (({"axes": "qq"}, "bad_axes"), ({"weight_format": "keras_hdf5"}, "weights_not_available"))
    for options, code in cases:
        assert (await run(dispatcher, **options))["code"] == code
    assert (await run(dispatcher, "no-such-shark"))["code"] == "model_not_found"
    assert (await run(dispatcher, "../etc"))["code"] == "bad_model_id"
    assert worker.loads == worker.inferred == []


async def test_a_model_takes_its_turns_only_and_the_others_go_on(make: Make) -> None:
    dispatcher, worker = make(concurrency=8, model_concurrency=2, queue_size=20)
    await run(dispatcher), await run(dispatcher, "otter")
    worker.gate = asyncio.Event()
    stuck = [asyncio.create_task(run(dispatcher, by=call(f"token {number}"))) for number in range(12)]
    await asyncio.sleep(0.3)
    assert worker.at_once == 2
    assert sum(task.done() for task in stuck) == 2, "half of the queue is the most for one model"
    other = asyncio.create_task(run(dispatcher, "otter"))
    await asyncio.sleep(0.3)
    assert worker.at_once == 3
    worker.gate.set()
    results = await asyncio.gather(*stuck, other)
    assert [result.get("code") for result in results].count("busy") == 2


async def test_who_sends_much_waits_behind_his_own(make: Make) -> None:
    dispatcher, worker = make(model_concurrency=1)
    await run(dispatcher)
    worker.gate, done = asyncio.Event(), list[str]()

    async def ask(who: str) -> None:
        await run(dispatcher, by=call(who))
        done.append(who)

    tasks = [asyncio.create_task(ask("greedy")) for _ in range(10)]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(ask(who)) for who in ("ada", "bob")]
    await asyncio.sleep(0.01)
    worker.gate.set()
    await asyncio.gather(*tasks)
    assert set(done[:4]) == {"greedy", "ada", "bob"}


async def test_who_has_gone_is_not_run_for(make: Make) -> None:
    dispatcher, worker = make()
    assert (await run(dispatcher, by=call(connected=lambda: False)))["code"] == "caller_gone"
    assert worker.inferred == []


async def test_steps_are_told_in_order(make: Make) -> None:
    dispatcher, _ = make()
    told: list[str] = []
    for expected in (["queued", "loading", "running"], ["queued", "running"]):
        told.clear()
        by = call(progress=lambda event: told.append(event["state"]))
        async with by.progress:
            await run(dispatcher, by=by)
        assert told == expected


async def test_a_stop_answers_all_who_wait(make: Make) -> None:
    dispatcher, worker = make(model_concurrency=1)
    worker.gate = asyncio.Event()
    tasks = [asyncio.create_task(run(dispatcher)) for _ in range(3)]
    await asyncio.sleep(0.05)
    dispatcher.queue.close()
    assert [result["code"] for result in await asyncio.gather(*tasks)] == ["stopping"] * 3
    worker.gate.set()
