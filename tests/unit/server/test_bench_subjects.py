"""What `bioengine bench` measures: each subject against a stack and clients that take as long as they are told; a whole run."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bioengine_server.bench import run as run_module
from bioengine_server.bench.cpu import Watched
from bioengine_server.bench.echo import echo
from bioengine_server.bench.errors import BenchFailed, TooLittleSharedMemory
from bioengine_server.bench.huge import huge
from bioengine_server.bench.measurement import Measurement
from bioengine_server.bench.memory import memory
from bioengine_server.bench.proxy import proxy
from bioengine_server.bench.run import run_bench
from bioengine_server.errors import StackError
from bioengine_server.settings import Settings

MILLISECONDS = {"floor": 10.0, "imjoy-rpc": 40.0, "hypha-rpc": 30.0, "direct": 50.0, "proxied": 60.0}


class TimedClient:
    """In place of a client's process: each echo takes the milliseconds of its kind."""

    cpu = 1.0

    def __init__(self, kind: str, calls: list[tuple[str, int]]) -> None:
        self._kind, self._calls = kind, calls

    def __enter__(self) -> TimedClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def echo(self, side: int) -> float:
        self._calls.append((self._kind, side))
        return MILLISECONDS[self._kind]


class TimedStack:
    """In place of a running stack: its clients are timed, its memory grows by a megabyte with each look at it."""

    triton_address = "the socket"

    def __init__(self, url: str = "http://127.0.0.1:9520") -> None:
        self.settings: Any = SimpleNamespace(port=9520, url=url)
        self.calls: list[tuple[str, int]] = []
        self.looks = 0

    def user(self, library: str) -> TimedClient:
        return TimedClient(library, self.calls)

    def floor_user(self, address: str) -> TimedClient:
        assert address.startswith("127.0.0.1:")
        return TimedClient("floor", self.calls)

    def triton_user(self, address: str) -> TimedClient:
        return TimedClient("direct" if address == self.triton_address else "proxied", self.calls)

    def watched(self, case: Any, client: Any) -> Watched:
        return Watched(case, client, lambda: {"server": []})

    def memory(self, model: str | None = None) -> int:
        self.looks += 1
        return (200 if model is None else 100) * 1_000_000 + self.looks * 1_000_000

    @contextlib.contextmanager
    def peak_memory(self, model: str | None = None) -> Iterator[list[int]]:
        seen = [self.memory(model)]
        yield seen
        seen.append(self.memory(model))


def by_name(measurements: list[Measurement]) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in measurements}


def test_an_echo_is_compared_with_the_floor_of_its_size() -> None:
    stack: Any = TimedStack()
    measured = by_name(echo(stack, rounds=2))
    assert list(measured) == [
        "floor 4 MB", "echo 4 MB, imjoy-rpc", "echo 4 MB, hypha-rpc",
        "floor 16 MB", "echo 16 MB, imjoy-rpc", "echo 16 MB, hypha-rpc",
    ]  # fmt: skip
    item = measured["echo 16 MB, imjoy-rpc"]
    assert item.ratio == 4.0 and item.reference is measured["floor 16 MB"] and item.limit == 400
    assert item.values == (40.0, 40.0) and set(item.cpu) == {"server", "client"}
    assert stack.calls.count(("floor", 1024)) == 4, "two rounds, and two before them"


def test_the_proxy_is_compared_with_triton_itself() -> None:
    stack: Any = TimedStack()
    direct, through = proxy(stack, rounds=3)
    assert stack.calls[0] == ("hypha-rpc", 16), "loads the model"
    assert through.reference is direct and through.ratio == 1.2 and not through.exceeded
    assert through.cpu["client"] == (1.0, 1.0, 1.0)


def test_memory_is_looked_at_before_and_while_large_images_pass() -> None:
    stack: Any = TimedStack()
    at_rest, peak = memory(stack, rounds=5)
    assert (at_rest.values, peak.values) == ((201.0,), (203.0,))
    sides = [side for _, side in stack.calls]
    assert sides == [16, 16] + [2048] * 6


class Triton(BaseHTTPRequestHandler):
    """The model of the huge image, which halves each pixel; `fault` says what it does wrong."""

    fault = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        size = int(self.headers["Inference-Header-Content-Length"])
        (description,) = json.loads(body[:size])["inputs"]
        image = np.frombuffer(body[size:], np.uint16).reshape(description["shape"])
        output = image.astype(np.float32) / 2
        if self.fault == "seams" and image.shape[2] > 256:
            output[:, :, 100] += 1
        header, content = b'{"outputs": []}', output.tobytes()
        if self.fault == "refuses":
            header, content = b"there is no room", b""
        self.send_response(400 if self.fault == "refuses" else 200)
        self.send_header("Inference-Header-Content-Length", str(len(header)))
        self.send_header("Content-Length", str(len(header) + len(content)))
        self.end_headers()
        self.wfile.write(header + content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stack_with_model(request: pytest.FixtureRequest) -> Iterator[TimedStack]:
    handler = type("Faulty", (Triton,), {"fault": getattr(request, "param", "")})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02]).start()
        try:
            yield TimedStack(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def test_a_huge_image_is_looked_at_in_pieces(stack_with_model: Any) -> None:
    measured = by_name(huge(stack_with_model, rounds=9, side=1024))
    assert measured["image 1024x1024, uint16"].values == (1024 * 1024 * 2 / 1e6,)
    assert (
        measured["memory, peak while 1024x1024 is run"].median > 200 > measured["memory, peak of the model for 1024x1024"].median
    )
    assert measured["run of 1024x1024, through /triton"].median > 0


@pytest.mark.parametrize(
    ("stack_with_model", "reason"),
    [("seams", "two results .* differ by up to 1"), ("refuses", "there is no room")],
    indirect=["stack_with_model"],
)
def test_a_huge_image_that_comes_back_wrong_stops_the_measurements(stack_with_model: Any, reason: str) -> None:
    with pytest.raises(BenchFailed, match=f"/triton did not get the expected answer: {reason}"):
        huge(stack_with_model, rounds=1, side=1024)


def test_a_huge_image_is_not_begun_where_it_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    stack: Any = TimedStack("http://127.0.0.1:1")  # where nobody answers
    with pytest.raises(TooLittleSharedMemory, match=r"1\.0 GB free.* 1\.6 GB"):
        huge(stack, rounds=1)


@pytest.fixture
def subjects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of the measurements, those that were begun."""
    begun: list[str] = []

    def subject(name: str) -> Any:
        def measure(stack: object, rounds: int) -> list[Measurement]:
            begun.append(name)
            return [Measurement(name, "ms", (1.0,) * rounds)]

        measure.__name__ = name
        return measure

    found = {each.__name__: subject(each.__name__) for each in run_module.SUBJECTS}
    monkeypatch.setattr(run_module, "SUBJECTS", tuple(found.values()))
    monkeypatch.setattr(run_module, "huge", found["huge"])
    monkeypatch.setattr(run_module, "build_environments", lambda *names: names == ("client-imjoy", "client-hypha"))
    monkeypatch.setattr(run_module, "bench_stack", lambda settings: contextlib.nullcontext(TimedStack()))
    return begun


def test_memory_is_measured_first_and_the_huge_image_where_it_is_wished(subjects: list[str]) -> None:
    said: list[str] = []
    after = ["echo", "proxy", "core", "shapes", "crowd", "worker", "memory_after"]
    measured = run_bench(Settings(), 2, True, said.append)
    assert subjects == ["memory", "huge", *after] == [item.name for item in measured]
    assert said[-len(subjects) :] == [f"Measuring {name}" for name in subjects]
    subjects.clear()
    run_bench(Settings(), 2, False, said.append)
    assert subjects == ["memory", *after]


def test_nothing_is_measured_without_the_client_libraries(subjects: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "build_environments", lambda *names: False)
    with pytest.raises(StackError, match="client libraries"):
        run_bench(Settings(), 2, False, lambda said: None)
    assert subjects == []
