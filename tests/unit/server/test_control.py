"""The control room of a running server: what its admin sees and does; on a fake worker."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
from bioengine_contract.errors import BioEngineError
from bioengine_contract.operations import Card, ModelProcess, Report
from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.commands import operations
from bioengine_server.commands.running_model import tell_running
from bioengine_server.control.app import control_app
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.client import ControlClient
from bioengine_server.control.errors import NoServer
from bioengine_server.control.overview import Overview
from bioengine_server.control.server import control_room
from bioengine_server.dispatch.dispatcher import Call, Dispatcher
from bioengine_server.dispatch.progress import Progress
from bioengine_server.home_in_use import announced
from bioengine_server.settings import Settings

from tests.unit.server.test_dispatcher import Make, call, local, make, run

__all__ = ["make"]


@pytest.fixture
def registry(tmp_path: Path) -> TokenRegistry:
    return TokenRegistry(tmp_path)


class Room:
    """A control room, asked as its app is."""

    def __init__(self, home: Path, registry: TokenRegistry, dispatcher: Dispatcher | None) -> None:
        self.overview = Overview(Settings(home=home), CallerNames(registry), lambda: None)
        if dispatcher is not None:
            self.overview.watch(dispatcher)
        transport = httpx.ASGITransport(control_app(self.overview), raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://control")

    async def get(self, path: str) -> Any:
        return (await self._client.get(path)).raise_for_status().json()

    async def delete(self, path: str) -> tuple[int, dict[str, Any]]:
        response = await self._client.delete(path)
        return response.status_code, response.json()


async def test_status_of_an_idle_server(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    room = Room(tmp_path, registry, make()[0])
    status = await room.get("/status")
    assert status["ready"] and status["reason"] is None and status["models"] == [] and status["errors"] == []
    assert status["worker"]["memory"]["limit"] > 0 and status["worker"]["cards"] == []
    assert status["requests"] == {"waiting": 0, "running": 0, "concurrency": 16, "queue_size": 256}
    assert await room.get("/requests") == []


async def test_a_server_without_models_has_a_status_too(tmp_path: Path, registry: TokenRegistry) -> None:
    room = Room(tmp_path, registry, None)
    status = await room.get("/status")
    assert status["worker"] is None and status["models"] == [] and await room.get("/requests") == []
    assert (await room.delete("/requests/x"))[0] == 404


async def test_what_is_under_way_and_who_asks(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    token = registry.create("ada", 1)
    dispatcher, worker = make(model_concurrency=1)
    room = Room(tmp_path, registry, dispatcher)
    await run(dispatcher, by=call(token=token.id))
    worker.gate = asyncio.Event()
    tasks = [asyncio.create_task(run(dispatcher, by=call(token=token.id))), asyncio.create_task(run(dispatcher))]
    await asyncio.sleep(0.05)
    running, waiting = await room.get("/requests")
    assert (running["token"], running["model"], running["shapes"], running["state"]) == ("ada", "shark", [[1, 4, 4]], "running")
    assert (waiting["token"], waiting["client"], waiting["state"]) == ("", "ws/client", "queued")
    assert waiting["details"]["position"] == 1 and waiting["details"]["estimate"] >= 0
    status = await room.get("/status")
    (model,) = status["models"]
    assert (model["name"], model["weight_format"], model["device"], model["running"]) == ("shark", "onnx", "cpu", 1)
    assert (status["requests"]["running"], status["requests"]["waiting"]) == (1, 1)
    counts = {caller["token"]: (caller["requests"], caller["failed"], caller["under_way"]) for caller in status["callers"]}
    assert counts == {"ada": (1, 0, 1), "": (0, 0, 1)}
    worker.gate.set()
    await asyncio.gather(*tasks)
    assert await room.get("/requests") == []


async def test_the_servers_own_requests_are_not_shown(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, _ = make()
    room = Room(tmp_path, registry, dispatcher)
    await run(dispatcher, "missing", by=Call(Caller(OWN_USER, "", ""), Progress(None)))
    status = await room.get("/status")
    assert status["callers"] == [] and status["errors"] == []


async def test_the_last_errors_say_who_had_which(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, _ = make()
    room = Room(tmp_path, registry, dispatcher)
    results = [await run(dispatcher, f"missing-{number}") for number in range(30)]
    errors = (await room.get("/status"))["errors"]
    assert len(errors) == 20 and errors[0]["task_id"] == results[-1]["task_id"] and errors[0]["error"] == results[-1]["error"]
    assert (errors[0]["model"], errors[0]["code"], errors[0]["token"]) == ("missing-29", "model_not_found", "")


async def test_cancel(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, worker = make()
    room = Room(tmp_path, registry, dispatcher)
    worker.gate = asyncio.Event()
    task = asyncio.create_task(run(dispatcher))
    await asyncio.sleep(0.05)
    ((request,), unknown) = (await room.get("/requests"), await room.delete("/requests/none"))
    assert unknown[0] == 404 and unknown[1]["code"] == "no_such_request"
    assert await room.delete(f"/requests/{request['task_id']}") == (200, {})
    result = await task
    assert result["code"] == "cancelled" and "the server's admin" in result["error"]
    worker.gate.set()


async def test_unload(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, worker = make()
    room = Room(tmp_path, registry, dispatcher)
    assert (await room.delete("/models/shark"))[1]["code"] == "not_loaded"
    assert (await room.delete("/models/missing"))[1]["code"] == "model_not_found"
    await run(dispatcher)
    await run(dispatcher, weight_format="torchscript")
    worker.gate = asyncio.Event()
    task = asyncio.create_task(run(dispatcher))
    await asyncio.sleep(0.05)
    status, answer = await room.delete("/models/shark")
    assert (status, answer["code"]) == (409, "model_at_work") and "a request is under way" in answer["error"]
    worker.gate.set()
    await task
    assert await room.delete("/models/shark") == (200, {"unloaded": ["shark", "shark--torchscript"]})
    assert worker.unloaded == ["shark", "shark--torchscript"] and (await room.get("/status"))["models"] == []
    await run(dispatcher, weight_format="torchscript")
    assert (await room.delete("/models/shark--torchscript"))[1] == {"unloaded": ["shark--torchscript"]}


async def test_a_model_is_unloaded_from_whichever_card(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, _ = make()
    room = Room(tmp_path, registry, dispatcher)
    cards = [Card(index=index, name="a card", memory=80 * 10**9, free=70 * 10**9) for index in range(2)]
    local(dispatcher).learn(Report(boot="1", dead_instances=[], models={}, cards=cards))
    await run(dispatcher)
    (model,) = (await room.get("/status"))["models"]
    assert model["name"].startswith("shark--gpu")
    assert await room.delete("/models/shark") == (200, {"unloaded": [model["name"]]})


async def test_a_model_that_is_always_kept_is_not_unloaded(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, _ = make()
    room = Room(tmp_path, registry, dispatcher)
    await run(dispatcher)
    dispatcher.pool.kept.always |= {"shark"}
    status, answer = await room.delete("/models/shark")
    assert (status, answer["code"]) == (409, "kept_loaded") and "BIOENGINE_PRELOAD" in answer["error"]


async def test_cards_and_restarts_are_as_the_worker_reports_them(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    room = Room(tmp_path, registry, make()[0])
    card = Card(index=0, name="H100", memory=80, free=30)
    for boot in ("1", "1", "2"):
        room.overview.learn(Report(boot=boot, dead_instances=[], models={}, memory=64, cards=[card]))
    worker = (await room.get("/status"))["worker"]
    assert worker["restarts"] == 1 and worker["memory"]["machine"] == 64 and worker["cards"] == [card.model_dump()]


async def test_a_fault_of_the_servers_is_told(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    room = Room(tmp_path, registry, make()[0])
    room.overview.unload = None  # type: ignore[assignment,method-assign]
    status, answer = await room.delete("/models/shark")
    assert status == 500 and answer["code"] == "server_failed" and "bioengine logs" in answer["error"]


@pytest.fixture
def long_name(tmp_path: Path) -> Path:
    """A run dir whose name is longer than a socket's may be."""
    folder = tmp_path / ("lang und äußerst " * 8)
    folder.mkdir(mode=0o700)
    return folder


async def test_the_command_finds_the_socket_of_the_home(
    make: Make, tmp_path: Path, registry: TokenRegistry, long_name: Path
) -> None:
    """Also where the server has a run dir that the command does not know."""
    dispatcher, _ = make()
    room = Room(tmp_path, registry, dispatcher)
    client = ControlClient(Settings(home=tmp_path))
    with pytest.raises(NoServer, match="bioengine up"):
        client.status()
    with announced(Settings(home=tmp_path, run_dir=long_name)):
        async with control_room(room.overview, long_name):
            socket = long_name / "control"
            assert stat.S_ISSOCK(socket.stat().st_mode) and stat.S_IMODE(socket.stat().st_mode) == 0o600
            client = ControlClient(Settings(home=tmp_path))
            assert (await asyncio.to_thread(client.status))["home"] == str(tmp_path)
            assert await asyncio.to_thread(client.requests) == []
            await run(dispatcher)
            assert await asyncio.to_thread(client.unload, "shark") == ["shark"]
            with pytest.raises(BioEngineError, match="not loaded"):
                await asyncio.to_thread(client.unload, "shark")
            with pytest.raises(BioEngineError, match="no request 'a/b c'"):
                await asyncio.to_thread(client.cancel, "a/b c")
        assert not socket.exists()
        socket.touch()  # as one of a server that was killed
        async with control_room(room.overview, long_name):
            assert (await asyncio.to_thread(client.status))["ready"]
    with pytest.raises(NoServer):
        client.status()


async def test_a_run_dir_that_cannot_have_a_socket_does_not_stop_the_server(
    make: Make, tmp_path: Path, registry: TokenRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    room = Room(tmp_path, registry, make()[0])
    async with control_room(room.overview, tmp_path / "none"):
        assert "will not work" in caplog.text


async def test_the_commands_print_what_they_get(
    make: Make, tmp_path: Path, registry: TokenRegistry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("BIOENGINE_RUN_DIR", str(run_dir := tmp_path / "run"))
    run_dir.mkdir(mode=0o700)
    token = registry.create("ada", 1)
    dispatcher, worker = make(model_concurrency=1)
    room = Room(tmp_path, registry, dispatcher)
    card = Card(index=0, name="H100 [red]", memory=80_000_000_000, free=30_000_000_000)
    room.overview.learn(Report(boot="1", dead_instances=[], models={}, memory=64_000_000_000, cards=[card]))
    await run(dispatcher, "m\x1b[31missing")
    await run(dispatcher, by=call(token=token.id))
    worker.gate = asyncio.Event()
    tasks = [asyncio.create_task(run(dispatcher, by=call(token=token.id))) for _ in range(2)]
    await asyncio.sleep(0.05)
    async with control_room(room.overview, run_dir):
        for command in (operations.status, operations.ps):
            await asyncio.to_thread(command, home=tmp_path)
        text = capsys.readouterr().out
        await asyncio.to_thread(operations.status, as_json=True, home=tmp_path)
        assert json.loads(capsys.readouterr().out)["models"][0]["running"] == 1
        await asyncio.to_thread(operations.ps, as_json=True, home=tmp_path)
        first, _ = json.loads(capsys.readouterr().out)
        await asyncio.to_thread(operations.cancel, first["task_id"], home=tmp_path)
        assert f"Cancelled {first['task_id']}" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            await asyncio.to_thread(operations.unload, "shark", home=tmp_path)
        assert "is at work" in capsys.readouterr().err
        worker.gate.set()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(operations.unload, "shark", home=tmp_path)
        assert "Unloaded shark." in capsys.readouterr().out
    for words in (
        "ready",
        "GPU 0, H100 [red]: 50.0 GB of 80.0 GB",
        "now, 1 at work",
        "bad_model_id",
        "ada",
        "1×4×4",
        "position 1",
    ):
        assert words in text, text
    assert "\x1b" not in text


def test_without_a_server_the_command_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        operations.status(home=tmp_path)
    assert f"No server is running with the home {tmp_path}. Start it with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        operations.logs(home=tmp_path)
    assert "There are no logs in" in capsys.readouterr().err


async def test_how_a_model_is_computed(make: Make, tmp_path: Path, registry: TokenRegistry) -> None:
    dispatcher, _ = make()
    room = Room(tmp_path, registry, dispatcher)
    assert await room.get("/models/shark") == []
    await run(dispatcher)
    (before,) = await room.get("/models/shark")
    assert (before["state"], before["weight_format"], before["device"], before["details"]) == ("open", "onnx", "cpu", "")
    models = {
        "shark": ModelProcess(state="open", weight_format="onnx", device="cpu", details="ONNX Runtime\nprecision: exact"),
        "shark--torchscript": ModelProcess(state="failed", reason="The weights are damaged.", code="weights_damaged"),
        "otter": ModelProcess(state="failed", reason="not of this model"),
    }
    room.overview.learn(Report(boot="1", dead_instances=[], models=models))
    found, failed = await room.get("/models/shark")
    assert found["details"] == "ONNX Runtime\nprecision: exact" and found["name"] == "shark"
    assert (failed["name"], failed["state"], failed["reason"]) == ("shark--torchscript", "failed", "The weights are damaged.")
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await room.get("/models/missing")


async def test_models_show_asks_the_running_server(
    make: Make, tmp_path: Path, registry: TokenRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    dispatcher, _ = make()
    settings = Settings(home=tmp_path, run_dir=tmp_path / "run")
    await asyncio.to_thread(tell_running, settings, "shark")
    assert capsys.readouterr().out == "", "no server runs"
    settings.node_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    room = Room(tmp_path, registry, dispatcher)
    async with control_room(room.overview, settings.node_folder):
        await asyncio.to_thread(tell_running, settings, "shark")
        assert capsys.readouterr().out == "  in the running server: not loaded\n"
        await run(dispatcher)
        hostile = ModelProcess(state="open", details="ONNX Runtime\n\x1b[2J" + "x\n" * 9000)
        room.overview.learn(Report(boot="1", dead_instances=[], models={"shark": hostile}))
        await asyncio.to_thread(tell_running, settings, "shark")
        first, second, third, fourth, *others = capsys.readouterr().out.splitlines()
        assert (first, second, third) == ("  in the running server:", "    shark: onnx on cpu", "      ONNX Runtime")
        assert fourth.strip().startswith("\\x1b[2J") and len(others) < 40
        await asyncio.to_thread(tell_running, settings, "missing")
        assert "in the running server: No model 'missing" in capsys.readouterr().out
