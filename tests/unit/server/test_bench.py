"""What `bioengine bench` makes of what it measured, and the client processes that it measures with."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bioengine_server.bench.client import Client
from bioengine_server.bench.core import check_same
from bioengine_server.bench.cpu import Watched, cpu_time
from bioengine_server.bench.errors import BenchFailed
from bioengine_server.bench.floor import echo_server
from bioengine_server.bench.measurement import Measurement, interleaved
from bioengine_server.bench.report import as_json, cpu_table, summary, table
from bioengine_server.bench.stack import group_of
from rich.console import Console

FLOOR = Measurement("floor", "ms", (10.0, 20.0, 40.0))
WITHIN = Measurement("echo", "ms", (30.0, 60.0, 80.0), FLOOR, limit=100)
ADDED = Measurement("added", "ms", (15.0, 26.0, 44.0), FLOOR, added_limit=12)
SLOW = Measurement("slow", "ms", (100.0, 300.0, 101.0), limit=100)
FAR = Measurement("far", "ms", (15.0, 30.0, 60.0), FLOOR, ratio_limit=1.3)
MORE = Measurement("more", "ms", (23.0, 33.0, 52.0), FLOOR, added_limit=12)
WORK = {"server": (30.0, 32.0, 90.0), "models": (7.0, 6.0, 8.0), "client": (20.0, 21.0, 22.0)}
COSTLY = Measurement("costly", "ms", (30.0, 60.0, 80.0), cpu=WORK)
ALL = [FLOOR, WITHIN, ADDED, SLOW, FAR, MORE]


def test_ratios_are_of_the_rounds() -> None:
    assert WITHIN.median == 60 and WITHIN.best == 30
    assert WITHIN.ratio == 3.0, "of 3, 3 and 2; and not the ratio of the medians"
    assert ADDED.added == 5.0, "of 5, 6 and 4; and not the difference of the medians"
    assert FLOOR.ratio is None and FLOOR.added is None


def test_limits() -> None:
    assert [item.exceeded for item in ALL] == [False, False, False, True, True, True]
    assert not Measurement("at its limit", "ms", (100.0,), limit=100).exceeded


def test_every_round_has_all_cases() -> None:
    calls: list[str] = []

    def case(name: str) -> Callable[[], float]:
        def measure() -> float:
            calls.append(name)
            return float(len(calls))

        return measure

    values = interleaved({name: case(name) for name in "abc"}, rounds=2, warm_up=1)
    assert {name: len(measured) for name, measured in values.items()} == {"a": 2, "b": 2, "c": 2}
    assert "".join(calls) == "cba" + "abc" + "cba" and values["a"] == (4.0, 9.0)
    calls.clear()
    interleaved({name: case(name) for name in "abc"}, rounds=1, warm_up=2)
    assert len(calls) == 3 * 2, "as many to warm up as are measured, at most"


def test_the_table_has_all_and_names_what_is_exceeded() -> None:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(ALL))
    lines = {line.split()[0]: line for line in capture.get().splitlines()}
    assert {"floor", "echo", "added", "slow", "far", "more"} < set(lines)
    assert "3.00 x" in lines["echo"] and "ok" in lines["echo"] and "EXCEEDED" in lines["slow"] and "1.30 x" in lines["far"]
    assert "+5.0 ms" in lines["added"] and "+12 ms" in lines["added"] and "ok" in lines["added"]
    assert "EXCEEDED" not in lines["floor"] and "ok" not in lines["floor"]
    assert summary(ALL).splitlines() == [
        "Limits exceeded:",
        "  slow: 101.0 ms, at most 100 ms",
        "  far: 30.0 ms (+10.0 ms, 1.50 x floor), at most 1.30 x",
        "  more: 33.0 ms (+13.0 ms, 1.65 x floor), at most +12 ms",
    ]
    assert summary([FLOOR, WITHIN, ADDED]) == "All within their limits."


def test_cpu_time_is_told_by_process() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(cpu_table([FLOOR, COSTLY]))
    header, costly = (line.split() for line in capture.get().splitlines())
    assert header[-4:] == ["server", "models", "client", "all"]
    assert costly == ["costly", "32.0", "7.0", "21.0", "60.0"], "medians, and none of what was not looked at"
    (floor, item) = json.loads(as_json([FLOOR, COSTLY]))["measurements"]
    assert item["cpu"]["server"] == {"median": 32, "values": [30, 32, 90]} and floor["cpu"] == {}


@pytest.mark.parametrize(
    ("command", "group"),
    [
        ("/x/bin/tritonserver --model-store=/x", "Triton"),
        ("/x/triton_python_backend_stub /m/model.py triton_1 p 1 2 bioengine-model-runner_0_1 DEFAULT", "runner"),
        ("/x/triton_python_backend_stub /m/model.py triton_1 p 1 2 pkg-unet_0_0 DEFAULT", "models"),
    ],
)
def test_processes_are_told_apart(command: str, group: str) -> None:
    assert group_of(command.split()) == group


class Worker:
    cpu = 5.0


def test_the_work_of_other_processes_is_seen_and_their_rest_is_not() -> None:
    """One computes when it is told to, and one waits."""
    program = "for line in __import__('sys').stdin: print(sum(range(int(line))), flush=True)"
    command = [sys.executable, "-c", program]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as busy,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as idle,
    ):

        def ask(process: subprocess.Popen[str], number: int) -> float:
            assert process.stdin is not None and process.stdout is not None
            started = time.perf_counter()
            print(number, file=process.stdin, flush=True)
            process.stdout.readline()
            return (time.perf_counter() - started) * 1000

        ask(busy, 1), ask(idle, 1)  # both have started
        watched = Watched(lambda: ask(busy, 2_000_000), Worker(), lambda: {"busy": [busy.pid], "idle": [idle.pid]})
        took = [watched() for _ in range(3)]
        spent = watched.cpu(rounds=2)
        assert len(spent["busy"]) == 2 and spent["client"] == (5.0, 5.0)
        assert all(2 < cpu < ms + 21 for cpu, ms in zip(spent["busy"], took[1:], strict=True))
        assert all(cpu < 2 for cpu in spent["idle"])
        busy.communicate(), idle.communicate()
    assert cpu_time([busy.pid]) == 0, "it has ended"


def test_the_json_has_every_round() -> None:
    document = json.loads(as_json(ALL))
    echo = next(item for item in document["measurements"] if item["name"] == "echo")
    assert echo["values"] == [30, 60, 80] and echo["compared_with"] == "floor" and echo["ratio"] == 3 and not echo["exceeded"]
    assert document["machine"]["processors"] >= 1


def test_a_client_measures_what_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    with echo_server() as address, Client(Path(sys.executable), "tcp", address, tmp_path) as client:
        assert client.echo(side=8) > 0 and client.echo(side=1000) > 0
        assert 0.1 < client.cpu < 1000, "ms of the last run"


def test_an_image_that_comes_back_changed_stops_the_measurements(tmp_path: Path) -> None:
    def answer_changed(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as incoming:
            data = bytearray(incoming.read(int.from_bytes(incoming.read(8), "big")))
            data[-1] ^= 1  # one bit of the last pixel
            connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_changed, args=(listener,), daemon=True).start()
        with (
            pytest.raises(BenchFailed, match="tcp did not get the expected answer: what came back differs"),
            Client(Path(sys.executable), "tcp", f"127.0.0.1:{listener.getsockname()[1]}", tmp_path) as client,
        ):
            client.echo(side=8)


def test_a_server_that_is_not_there_stops_the_measurements(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        pytest.raises(BenchFailed, match="tcp did not get the expected answer: ConnectionRefusedError"),
        Client(Path(sys.executable), "tcp", f"127.0.0.1:{port}", tmp_path) as client,
    ):
        client.echo(side=8)


def test_results_that_differ_stop_the_measurements() -> None:
    result = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    check_same(result, result + np.float32(1e-6), "two")
    changed = result.copy()
    changed[1, 2] += 1e-3
    with pytest.raises(BenchFailed, match=r"two did not get the expected answer: two results .* differ by up to 0.001"):
        check_same(result, changed, "two")
    with pytest.raises(BenchFailed, match=r"one result of \(3, 4\) pixels and one of \(4, 3\)"):
        check_same(result, result.T, "two")
