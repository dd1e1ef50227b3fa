"""The admin's commands on a running server, during a slow run."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import Result

from tests.stack import harness
from tests.stack.harness import ROOT, Stack, bioengine, fill_home, snail, wait_for

LONG_TASK = 60.0  # seconds; it is cancelled


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """What systemd is for a service of `Type=notify`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path_factory.mktemp("manager") / "notify"))
        yield listener


@pytest.fixture(scope="module")
def served(packages: Path, manager: socket.socket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("operations") / "home"
    fill_home(home, packages)
    with Stack(
        home, BIOENGINE_MODEL_CONCURRENCY="1", BIOENGINE_LOG_FORMAT="json", NOTIFY_SOCKET=manager.getsockname()
    ) as running:
        yield running
    assert b"STOPPING=1" in told(manager)


def told(manager: socket.socket) -> list[bytes]:
    """What has been sent to a service manager."""
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(manager.recv(4096, socket.MSG_DONTWAIT))
    return messages


def command(stack: Stack, *arguments: str) -> Result:
    return harness.command(*arguments, "--home", str(stack.home))


def asked(stack: Stack, *arguments: str) -> Any:
    done = command(stack, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def running(stack: Stack, number: int, token: str) -> Iterator[list[dict[str, Any]]]:
    """Slow runs beside the test, from as many clients; their results are there when the context has ended."""
    results: list[dict[str, Any]] = []

    def run() -> None:
        with stack.client(token) as client:
            results.append(client.run("slow-snail", [snail(LONG_TASK)]))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(asked(stack, "ps")) == number, 30, "under way")
    yield results
    for thread in threads:
        thread.join(30)


def test_systemd_is_told_that_the_server_is_ready(served: Stack, manager: socket.socket) -> None:
    messages: list[bytes] = []

    def is_told() -> bool:
        messages.extend(told(manager))
        return {b"READY=1", b"STATUS=Ready"} <= {*messages}

    wait_for(is_told, 30, "told")
    assert messages[0] == b"STATUS=Not ready: the stack is starting"


def test_what_is_under_way_is_seen_and_cancelled(served: Stack) -> None:
    token = served.token("ada")
    with running(served, 2, token) as results:
        wait_for(lambda: "running" in [each["state"] for each in asked(served, "ps")], 30, "running")
        status = command(served, "status")
        assert status.exit_code == 0 and "ready" in status.stdout and "now, 1 at work" in status.stdout, status.stdout
        assert "ada" in status.stdout and "1 of at most 16 running, 1 of at most 256 waiting" in status.stdout
        listed = command(served, "ps").stdout
        assert "ada" in listed and "slow-snail" in listed and "1×1×4×4" in listed and "position 1" in listed, listed
        busy = command(served, "unload", "slow-snail")
        assert busy.exit_code == 1 and "is at work" in busy.stderr
        for request in asked(served, "ps"):
            assert request["token"] == "ada"
            assert command(served, "cancel", request["task_id"]).exit_code == 0
    assert [result["code"] for result in results] == ["cancelled"] * 2 and "the server's admin" in results[0]["error"]
    assert wait_for(lambda: asked(served, "ps") == [], 10, "ended") < 10
    again = command(served, "cancel", "none")
    assert again.exit_code == 1 and "You have no request 'none' in progress" in again.stderr
    found = asked(served, "status")
    assert [error["code"] for error in found["errors"]] == ["cancelled"] * 2
    assert [(caller["token"], caller["failed"]) for caller in found["callers"]] == [("ada", 2)]


def test_a_model_is_unloaded(served: Stack) -> None:
    with served.client() as client:
        assert client.run("slow-snail", [snail(0)])["success"]
    (model,) = [model for model in asked(served, "status")["models"] if model["name"] == "slow-snail"]
    assert (model["device"], model["running"]) == ("cpu", 0) and model["memory"] > 50e6

    def shown() -> str:
        return command(served, "models", "show", "slow-snail").stdout

    wait_for(lambda: "      torch 2." in shown(), 30, "said how it is computed")
    assert "    slow-snail: torchscript on cpu\n" in shown()
    assert command(served, "unload", "slow-snail").stdout == "Unloaded slow-snail.\n"
    assert "slow-snail" not in [model["name"] for model in asked(served, "status")["models"]]
    assert not served.stubs("slow-snail")
    again = command(served, "unload", "slow-snail")
    assert again.exit_code == 1 and "is not loaded" in again.stderr
    assert "in the running server: not loaded" in shown()


def test_of_another_home_there_is_no_server(served: Stack, tmp_path: Path) -> None:
    done = bioengine("status", "--home", str(tmp_path / "home"))
    assert done.returncode == 1 and "No server is running with the home" in done.stderr


def test_prometheus_gets_figures_of_what_has_happened(served: Stack) -> None:
    with served.client() as client:
        assert client.run("slow-snail", [snail(0)])["success"]
        with pytest.raises(Exception, match="colour"):
            client.triton.execute(model_name="bioengine-model-runner", serialization="imjoy", colour="red", inputs=[])
    text = httpx.get(f"{served.url}/metrics").raise_for_status().text
    figures = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}
    assert figures['bioengine_requests_total{model="slow-snail",outcome="done",token=""}'] >= 1
    assert figures['bioengine_requests_total{model="unknown",outcome="bad_argument",token=""}'] == 1, "refused at once"
    assert figures["bioengine_ready"] == 1 and figures['bioengine_model_memory_bytes{model="slow-snail",worker=""}'] > 50e6
    assert figures["bioengine_model_loads_total"] >= 2, "of the readiness probe's model, and of this one"


def test_logs_are_shown_and_followed(served: Stack) -> None:
    arguments = ["logs", "-f", "-n", "1", "--home", str(served.home)]
    # As in a terminal: a process that was started in the background has SIGINT ignored, and so have its children.
    command_line = ["env", "--default-signal=INT", str(ROOT / "bioengine"), *arguments]
    follow = subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    assert "server.log <==" in follow.stdout.readline(), "it has begun"
    with served.client() as client:
        result = client.run("missing", [snail(0)])
    assert "model_not_found" in next(line for line in follow.stdout if result["task_id"] in line)
    follow.send_signal(signal.SIGINT)
    assert follow.wait(10) == 0
    follow.stdout.close()
    shown = command(served, "logs", "-n", "100").stdout
    assert f"==> {served.settings.node_folder}/server.log <==" in shown and "triton.log <==" in shown
    line = next(line for line in shown.splitlines() if result["task_id"] in line)
    found = json.loads(line)
    assert (found["model"], found["outcome"], found["error"]) == ("missing", "model_not_found", result["error"])
    assert served.settings.node_folder.joinpath("server.log").stat().st_mode & 0o077 == 0
