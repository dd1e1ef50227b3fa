"""Start, stop, and what is left behind; home and port in use; children that die."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest
from bioengine_server.settings import Settings

from tests.stack.harness import Stack, bioengine, command, example_input, wait_for


def end_after_a_model_has_died(stack: Stack, packages: Path, signal_number: int) -> None:
    """A signal ends all of it, also after a model process was killed, when Triton does not end cleanly by itself."""
    assert "Ready: " + stack.url in stack.log and "connect_to_server" in stack.log
    with stack.client() as client:
        assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
        stack.stubs("old-otter")[0].kill()
        assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
    assert stack.shared_memory() and stack.triton_processes()
    seconds = stack.stop(signal_number)
    assert seconds < 10
    assert stack.process is not None and stack.process.returncode == 0, stack.log
    assert stack.leftovers() == []


def test_a_signal_ends_all_of_it(own_home: Path, packages: Path) -> None:
    with Stack(own_home) as stack:
        end_after_a_model_has_died(stack, packages, signal.SIGTERM)


@pytest.mark.extended
def test_a_signal_while_it_starts(own_home: Path) -> None:
    with Stack(own_home, "--offline", wait=False) as stack:
        wait_for(lambda: "starting Hypha" in stack.log, 30, "Triton started")
        seconds = stack.stop()
        print(f"stopped in {seconds:.1f} s")
        assert seconds < 9
        assert stack.leftovers() == []


@pytest.mark.extended
def test_a_home_whose_server_dies_again_and_again(own_home: Path, packages: Path) -> None:
    """First it alone, then with all of its processes; each start sweeps, and secrets stay. At last it ends in order.

    In one test, since each start of a stack takes seconds of computing time.
    """
    secret = own_home / "secrets" / "hypha-jwt"
    assert not secret.exists()
    with Stack(own_home) as stack:
        memory_with_no_model_loaded(stack)
        value = secret.read_text()
        assert len(value) >= 32 and secret.stat().st_mode & 0o077 == 0
        triton_ends_with_a_killed_server(stack)
        stack.start()
        assert secret.read_text() == value
        environment = psutil.Process(stack.triton().pid).environ()
        assert value not in str(environment), "Triton does not get the Hypha server's secret"
        a_start_sweeps_what_a_kill_of_everything_left(stack)
        end_after_a_model_has_died(stack, packages, signal.SIGINT)
        assert secret.read_text() == value


def memory_with_no_model_loaded(stack: Stack) -> None:
    time.sleep(5)
    megabytes = stack.pss() / 1e6
    print(f"PSS of the whole stack with no model loaded but the probe: {megabytes:.0f} MB")
    assert megabytes <= 1500


def triton_ends_with_a_killed_server(stack: Stack) -> None:
    assert stack.process is not None
    stack.process.kill()
    stack.process.wait()
    wait_for(lambda: not [p for p in stack.triton_processes() if "tritonserver" in p.info["cmdline"][0]], 5, "Triton ended")


def a_start_sweeps_what_a_kill_of_everything_left(stack: Stack) -> None:
    processes = stack.triton_processes()
    assert stack.process is not None
    for process in [psutil.Process(stack.process.pid), *processes]:
        process.kill()
    stack.process.wait()
    assert stack.shared_memory(), "a killed Triton leaves its segments"
    folder = Settings(home=stack.home).tensor_folder
    assert folder is not None
    (folder / "of-a-request").mkdir()
    old = {segment.name for segment in stack.shared_memory()} - {folder.name, stack.settings.triton_sockets.name}
    stack.start()
    assert not old & {segment.name for segment in stack.shared_memory()}
    assert not (folder / "of-a-request").exists()  # requests of the new server have theirs


def test_started_twice(stack: Stack, tmp_path: Path) -> None:
    same_home = bioengine("up", "--home", str(stack.home), "--port", "1")
    assert same_home.returncode == 1
    assert "already running with the home" in same_home.stderr and stack.url in same_home.stderr
    same_port = bioengine("up", "--home", str(tmp_path / "other"), "--port", str(stack.port))
    assert same_port.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{stack.port}" in same_port.stderr and "--port" in same_port.stderr
    for attempt in (same_home, same_port):
        assert "Traceback" not in attempt.stderr
    assert stack.is_ready()


def test_settings_come_from_the_environment_too(stack: Stack) -> None:
    twin = bioengine("up", BIOENGINE_HOME=str(stack.home), BIOENGINE_PORT="1", BIOENGINE_HOST="127.0.0.1")
    assert "already running with the home" in twin.stderr
    listing = command("models", "list", BIOENGINE_HOME=str(stack.home))
    assert "bioengine-probe" in listing.stdout
    assert stack.is_ready()
    assert "port" in command("up", BIOENGINE_PORT="many").stderr


def test_it_listens_on_loopback_only_and_triton_too(stack: Stack) -> None:
    assert stack.process is not None
    for process in [psutil.Process(stack.process.pid), stack.triton()]:
        addresses = {connection.laddr.ip for connection in process.net_connections("tcp") if connection.status == "LISTEN"}
        assert addresses == ({"127.0.0.1"} if process.pid == stack.process.pid else set()), "Triton has a Unix socket alone"


def test_triton_closes_what_clients_do_not_need(stack: Stack) -> None:
    """The model repository, shared memory, trace and logging APIs; inference is open. There is no gRPC."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(stack.settings.triton_sockets / "http"))) as triton:
        for path, method in [
            ("v2/repository/index", "POST"),
            ("v2/repository/models/x/load", "POST"),
            ("v2/systemsharedmemory/status", "GET"),
            ("v2/cudasharedmemory/status", "GET"),
            ("v2/trace/setting", "GET"),
            ("v2/logging", "GET"),
        ]:
            assert triton.request(method, f"http://triton/{path}").status_code == 403
        assert triton.get("http://triton/v2/health/live").status_code == 200
    assert "--allow-grpc=false" in stack.triton().cmdline()
