"""The model runner of a Triton, kept healthy: what its failures cause, and what they do not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bioengine_contract import message
from bioengine_contract.errors import RemoteError
from bioengine_server.triton import runner as runner_module
from bioengine_server.triton.errors import TritonError, TritonUnavailable
from bioengine_server.triton.runner import Runner, Watcher


class Api:
    """Stands in for Triton's API, which a test cannot make fail at will: answers of the model runner in turn."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.replaced = 0
        self.has_runner = self.lives = True
        self.replacing_takes = 0.0

    async def infer(self, _: str, inputs: list[tuple[str, np.ndarray]], *__: Any) -> Any:
        ((_, data),) = inputs
        self.asked.append(message.decode(data.flat[0]))
        answer = self.answers.pop(0) if self.answers else REPORT
        if answer is HANGS:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(outputs={"result": np.array([message.encode(answer)], dtype=np.object_)})

    async def is_ready(self, _: str) -> bool:
        return self.has_runner

    async def is_live(self) -> bool:
        return self.lives

    async def load_runner(self) -> None:
        self.has_runner = True

    async def replace_runner(self) -> None:
        self.replaced += 1
        await asyncio.sleep(self.replacing_takes)


REPORT = {"boot": "1", "dead_instances": [], "models": {}}
HANGS = object()
DEAD = TritonError("Failed to process the request(s) for model instance 'x', message: Stub process 'x' is not healthy.", 500)


def runner(api: Api) -> Runner:
    return Runner(api, Watcher())  # type: ignore[arg-type]


async def test_a_dead_instance_is_replaced_and_the_operation_answered() -> None:
    api = Api(DEAD)
    assert (await runner(api).report()).boot == "1"
    assert api.replaced == 1


async def test_a_failure_while_all_instances_live_repairs_nothing() -> None:
    api = Api(TritonError("no room in shared memory", 500), REPORT)
    assert await runner(api).ask({"operation": "end", "name": "x"}) == REPORT
    assert api.replaced == 0 and api.asked[1] == {"operation": "report"}


async def test_an_answer_that_cannot_be_read_is_a_failure() -> None:
    with pytest.raises(TritonUnavailable):
        await runner(Api("no dict", REPORT, "no dict")).ask({"operation": "end", "name": "x"})


async def test_what_is_wrong_with_a_model_comes_with_its_code() -> None:
    api = Api({"error": "it is broken", "code": "model_not_opened"})
    with pytest.raises(RemoteError, match="it is broken") as raised:
        await runner(api).ask({"operation": "load"})
    assert raised.value.code == "model_not_opened" and api.replaced == 0


async def test_requests_cause_few_repairs_and_the_watch_goes_on() -> None:
    api = Api(*[DEAD] * 1000)
    repaired = runner(api)
    for _ in range(30):
        with pytest.raises(TritonUnavailable):
            await repaired.ask({"operation": "report"})
    assert api.replaced == 20
    api.answers = [{**REPORT, "dead_instances": ["x"]}]
    assert (await repaired.check()).dead_instances == []
    assert api.replaced == 21


async def test_a_triton_that_has_started_without_its_runner_is_told_to_load_it() -> None:
    """As where one of its instances fails at the start; one that is away is not."""
    api = Api()
    api.has_runner = False
    await runner(api).check()
    assert api.has_runner
    api.has_runner = api.lives = False
    with pytest.raises(TritonUnavailable):
        await runner(api).check()
    assert not api.has_runner


async def test_why_triton_cannot_load_it_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The log has Triton's own words; whoever asks learns that it is not a Triton that is down."""
    monkeypatch.setattr(runner_module, "RECOVERY", 0.2)
    text = "load failed for model 'bioengine-model-runner': Internal: unable to get number of CUDA devices"
    api, fails = Api(TritonUnavailable("it does not answer")), [TritonError(text, 500)] * 3
    api.has_runner = False

    async def load() -> None:
        if fails:
            raise fails.pop()
        api.has_runner = True

    monkeypatch.setattr(api, "load_runner", load)
    here = runner(api)
    for _ in range(3):
        with pytest.raises(TritonUnavailable, match="its model runner cannot be loaded"):
            await here.check()
    with pytest.raises(TritonUnavailable, match="its model runner cannot be loaded"):
        await here.ask({"operation": "report"})
    assert caplog.text.count(text) == 1 and caplog.text.count("it is told to load it") == 1
    await here.check()
    await is_told_to_be_down(here, api)


async def is_told_to_be_down(here: Runner, api: Api) -> None:
    """And not that its runner cannot be loaded."""
    api.has_runner, api.answers = False, [TritonUnavailable("it does not answer")]
    with pytest.raises(TritonUnavailable, match="it has been down for"):
        await here.ask({"operation": "report"})


async def test_a_triton_that_has_started_again_has_no_old_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has loaded its runner at its start, and nobody has told it to."""
    monkeypatch.setattr(runner_module, "RECOVERY", 0.2)
    api = Api()
    api.has_runner = False

    async def load() -> None:
        raise TritonError("load failed", 500)

    monkeypatch.setattr(api, "load_runner", load)
    here = runner(api)
    with pytest.raises(TritonUnavailable, match="its model runner cannot be loaded"):
        await here.check()
    api.has_runner = True
    await here.check()
    await is_told_to_be_down(here, api)


async def test_an_operation_that_hangs_fails_and_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "ANSWERS_WITHIN", 0.02)
    api = Api(HANGS)
    with pytest.raises(TritonUnavailable, match="its model runner did not load within"):
        await runner(api).ask({"operation": "load"})
    assert len(api.asked) == 1 and api.replaced == 0


async def test_instances_that_all_hang_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "ANSWERS_WITHIN", 0.02)
    api = Api(HANGS)
    assert (await runner(api).check()).boot == "1" and api.replaced == 1


async def test_on_a_busy_machine_a_replacement_may_take_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a Triton that is only slow would be ended again and again."""
    monkeypatch.setattr(runner_module, "_REPLACE_TIMEOUT", 0.05)
    api, stuck = Api(), list[int]()
    kept = runner(api)
    kept._watcher.on_stuck = lambda: stuck.append(api.replaced)  # type: ignore[method-assign]
    api.replacing_takes = 0.3
    for _ in range(3):  # 0.05, 0.1, 0.2 s
        with pytest.raises(TritonUnavailable):
            await kept.repair()
    await kept.repair()
    assert stuck == [1, 2, 3] and api.replaced == 4
    with pytest.raises(TritonUnavailable):
        await kept.repair()
    assert stuck == [1, 2, 3, 5], "from then on as before"
