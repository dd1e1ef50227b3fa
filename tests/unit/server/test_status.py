"""`get_status`: what everybody who may call may know, and no more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from bioengine_contract.version import VERSION
from bioengine_server.access.errors import NoAccess
from bioengine_server.access.rules import Access
from bioengine_server.dispatch.dispatcher import Dispatcher
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.service.triton_client import TritonClient
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.triton.api import TritonApi
from bioengine_server.workers.worker import ModelGone

from tests.unit.server.test_dispatcher import FakeWorker, call, run, store

NOTHING = {"models": [], "requests": {"waiting": 0, "running": 0}}


def service(home: Path, **settings: Any) -> tuple[TritonClient, FakeWorker]:
    store(home, "shark", "otter")
    worker, chosen = FakeWorker(), Settings(home=home, offline=True, **settings)
    dispatcher = Dispatcher(chosen, worker, StoreService(chosen), "")
    return TritonClient(dispatcher, cast(TritonApi, None), Access(chosen, None), "http://server"), worker


async def test_it_names_the_version_and_whether_the_server_is_ready(tmp_path: Path) -> None:
    client, _ = service(tmp_path)
    assert await client.get_status() == {"version": VERSION, "ready": None, **NOTHING}
    is_ready = [False, True]
    client.watch_readiness(lambda: is_ready.pop(0))
    assert (await client.get_status())["ready"] is False and (await client.get_status())["ready"] is True


async def test_loaded_models_are_named_with_what_they_compute_on_and_how_long_they_rest(tmp_path: Path) -> None:
    client, worker = service(tmp_path)
    await run(client.dispatcher), await run(client.dispatcher, "otter", weight_format="torchscript")
    await asyncio.sleep(0.2)
    await run(client.dispatcher)
    otter, shark = (await client.get_status())["models"]
    assert {**shark, "idle": 0} == {"name": "shark", "weight_format": "onnx", "device": "cpu", "idle": 0}
    assert (otter["name"], otter["weight_format"]) == ("otter--torchscript", "torchscript")
    assert shark["idle"] < 0.2 <= otter["idle"]
    worker.failures = [ModelGone("it is gone"), ModelGone("it is gone")]
    await run(client.dispatcher)
    assert [model["name"] for model in (await client.get_status())["models"]] == ["otter--torchscript"]


async def test_it_counts_who_waits_and_runs_and_names_nobody(tmp_path: Path) -> None:
    client, worker = service(tmp_path, model_concurrency=1)
    await run(client.dispatcher)
    worker.gate = asyncio.Event()
    tasks = [asyncio.create_task(run(client.dispatcher, by=call(f"token {number}"))) for number in range(3)]
    await asyncio.sleep(0.02)
    status = await client.get_status()
    assert status["requests"] == {"waiting": 2, "running": 1} and "token" not in repr(status)
    worker.gate.set()
    await asyncio.gather(*tasks)
    assert (await client.get_status())["requests"] == {"waiting": 0, "running": 0}


async def test_whoever_may_not_ask_for_a_configuration_may_not_ask_for_this(tmp_path: Path) -> None:
    client, _ = service(tmp_path, access="token")
    for method in (client.get_config, client.get_status):
        with pytest.raises(NoAccess):
            await method()
    with pytest.raises(RefusedArgument, match="The method takes no arguments"):
        await service(tmp_path / "open", access="open")[0].get_status(verbose=True)


def test_it_is_offered_to_rpc_clients(tmp_path: Path) -> None:
    client, _ = service(tmp_path)
    methods = {name for name, value in client.definition().items() if callable(value)}
    assert methods == {"execute", "get_config", "get_status", "cancel"}
