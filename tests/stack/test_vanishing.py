"""Clients that disappear while their requests run or wait."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from bioengine_contract import message

from tests.stack.harness import RUNNER, Stack, fill_home, snail, wait_for
from tests.stack.raw import RawClient
from tests.stack.vanishing import WARM_UP, Footprint, vanish_all

pytestmark = pytest.mark.extended

ONE_HOUR = 3600
VANISHING = 300
KEPT = 40e6
"""Bytes that the server may hold more after them: each of them sent 2 MB, and was half a megabyte of objects."""
BACK_AFTER = 75  # seconds; memory is kept for the next image for up to a minute


@pytest.fixture(scope="module")
def one_at_a_time(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that runs one request of a model at a time."""
    home = tmp_path_factory.mktemp("vanishing") / "home"
    fill_home(home, packages)
    with Stack(home, BIOENGINE_MODEL_CONCURRENCY="1") as stack:
        with stack.client() as client:
            assert client.run("slow-snail", [snail(0)])["success"]
        yield stack


def execute_by_websocket(stack: Stack, generation: str, image: np.ndarray) -> Callable[[], None]:
    """Have a run asked for; returns what makes its client vanish."""
    client = RawClient(stack, generation)
    inputs = [{"model_id": "slow-snail", "inputs": [message.represent(image)]}]
    arguments = {"inputs": inputs, "model_name": RUNNER, "serialization": "imjoy"}
    client.send(client.frame(f"{client.service}.execute", arguments, session="run", with_kwargs=True))
    return client.vanish


def execute_by_http(stack: Stack, image: np.ndarray) -> Callable[[], None]:
    inputs = [{"model_id": "slow-snail", "inputs": [message.represent(image)]}]
    body = msgpack.packb({"inputs": inputs, "model_name": RUNNER, "serialization": "imjoy"})
    connection = socket.create_connection(("127.0.0.1", stack.port))
    head = f"POST /public/services/triton-client/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/msgpack\r\n\r\n" + body)
    return connection.close


def test_runs_of_vanished_clients_are_not_run(one_at_a_time: Stack) -> None:
    """One vanishes while its request runs and three while theirs wait; who waits behind them gets the result."""
    leave_running = execute_by_websocket(one_at_a_time, "hypha-rpc", snail(10))
    time.sleep(1)
    leave_queue = [
        execute_by_websocket(one_at_a_time, "imjoy-rpc", snail(ONE_HOUR)),
        execute_by_websocket(one_at_a_time, "hypha-rpc", snail(ONE_HOUR)),
        execute_by_http(one_at_a_time, snail(ONE_HOUR)),
    ]
    time.sleep(1)
    told: list[dict[str, Any]] = []
    with one_at_a_time.client() as patient:

        def listen(event: dict[str, Any]) -> None:
            told.append(dict(event))
            if event.get("position") == 4:  # three are before us, and the running one before them
                for leave in (leave_running, *leave_queue):
                    leave()

        request = {"model_id": "slow-snail", "inputs": [snail(0.1)]}
        answer = patient.triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy", progress=listen)
        assert answer["result"]["success"], answer
    positions = [event["position"] for event in told if event["state"] == "queued"]
    assert positions[0] == 4 and positions == sorted(positions, reverse=True), told
    assert [event["state"] for event in told[-3:]] == ["queued", "loading", "running"], "the run that nobody wants is ended"
    wait_for(lambda: one_at_a_time.log.count("disconnected, and its request was ended") == 4, 5, "each of them is in the log")


def test_nothing_is_kept_of_hundreds_that_vanish(one_at_a_time: Stack) -> None:
    """`python -m tests.stack.vanishing 5000` does it with more, and shows what there is in between."""
    vanish_all(one_at_a_time, range(WARM_UP))
    time.sleep(BACK_AFTER)
    before = Footprint.of(one_at_a_time)
    vanish_all(one_at_a_time, range(WARM_UP, WARM_UP + VANISHING))
    seconds = wait_for(lambda: Footprint.of(one_at_a_time).memory < before.memory + KEPT, BACK_AFTER, "memory back")
    after = Footprint.of(one_at_a_time)
    print(f"before: {before}; {seconds:.0f} s after {VANISHING} more: {after}")
    assert after.descriptors <= before.descriptors + 10 and after.threads <= before.threads + 4
