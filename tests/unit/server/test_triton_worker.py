"""How the worker interprets Triton's answers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bioengine_contract.errors import RequestError
from bioengine_contract.model_errors import ModelNotLoaded
from bioengine_contract.operations import ModelProcess
from bioengine_contract.shared_tensors import SharedTensors
from bioengine_contract.store import resolve
from bioengine_contract.triton_model import triton_model
from bioengine_server.access.caller import Caller
from bioengine_server.dispatch.jobs import Job
from bioengine_server.dispatch.progress import Progress
from bioengine_server.settings import Settings
from bioengine_server.triton.errors import TritonError, TritonUnavailable
from bioengine_server.workers.triton_worker import TritonWorker

from tests.unit.server.test_dispatcher import store


class FakeRunner:
    """A fake, since no real Triton fails at will: each inference ends in `text`, while the model's process lives."""

    def __init__(self, text: str, status: int) -> None:
        async def infer(*_: Any, **__: Any) -> Any:
            raise TritonError(text, status)

        self.api = SimpleNamespace(infer=infer, run_timeout=1.0)

    async def ask(self, _: dict[str, Any]) -> dict[str, Any]:
        return ModelProcess(state="open", weight_format="onnx", device="cpu").model_dump()


FAILURES = [
    (RequestError("the image is too small").marked(), 400, "image is too small"),
    ("[request id: 1] unexpected shape for input", 400, "unexpected shape"),
    ("something else", 500, "gave no reason"),
]


@pytest.mark.parametrize(("text", "status", "told"), FAILURES, ids=["ours", "triton", "no reason"])
async def test_a_failed_run_keeps_no_images(tmp_path: Path, text: str, status: int, told: str) -> None:
    """Not even until the garbage collector comes: many of them would fill the memory before it does."""
    store(tmp_path, "shark")
    settings = Settings(home=tmp_path, offline=True)
    model = triton_model(resolve(settings.store, "shark"))
    runner: Any = FakeRunner(text, status)
    worker = TritonWorker(runner, SharedTensors(tmp_path / "shared"), is_local=False)
    image = np.zeros((1, 4, 4), np.float32)
    kept = weakref.ref(image)
    gc.disable()
    try:
        try:
            await worker.infer(model, [image], {}, Job(Caller("user", "ws", "client"), "shark", Progress(None)))
        except Exception as error:
            assert told in str(error)
        del image
        await asyncio.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()


async def test_a_load_that_a_restart_of_triton_ends_is_no_failure_of_the_model(tmp_path: Path) -> None:
    """It would be remembered, and answered for ten seconds to everybody who wants the model."""
    store(tmp_path, "shark")
    runner: Any = FakeRunner("", 500)
    states = iter(["opening", "none"])

    async def ask(_: dict[str, Any]) -> dict[str, Any]:
        return ModelProcess(state=next(states)).model_dump()  # type: ignore[arg-type]

    runner.ask = ask
    worker = TritonWorker(runner, SharedTensors(tmp_path / "shared"), is_local=False)
    with pytest.raises(TritonUnavailable, match="started again"):
        await worker.load(triton_model(resolve(Settings(home=tmp_path, offline=True).store, "shark")))


@pytest.mark.parametrize(("deaths", "is_loaded"), [(1, True), (2, False)])
async def test_a_process_that_is_killed_while_it_opens_gets_a_second_chance(tmp_path: Path, deaths: int, is_loaded: bool) -> None:
    store(tmp_path, "shark")
    killed = ModelProcess(state="ended", reason="its process was killed")
    answers = [killed] * deaths + [ModelProcess(state="open", weight_format="onnx", device="cpu")]
    asked: list[str] = []

    async def ask(operation: dict[str, Any]) -> dict[str, Any]:
        asked.append(operation["operation"])
        return answers.pop(0).model_dump()

    runner: Any = FakeRunner("", 400)
    runner.ask = ask
    worker = TritonWorker(runner, SharedTensors(None), is_local=False)
    model = triton_model(resolve(tmp_path / "models", "shark"))
    if is_loaded:
        assert (await worker.load(model)).weight_format == "onnx"
    else:
        with pytest.raises(ModelNotLoaded, match="its process was killed"):
            await worker.load(model)
    assert asked == ["load", "load"]
