"""A server without a Triton, and workers, each a process tree of its own: whatever is killed, stopped, started and restarted
under 16 clients of both generations, no answer is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.settings import Settings
from bioengine_server.worker_side.run import JOINED

from tests.stack.harness import ROOT, Stack, bioengine, example_input, get, python, wait_for
from tests.stack.wire import HERE, TUN, two_hosts

MODELS = ("old-otter", "conscientious-seashell")


class WorkerBox(Stack):
    """`./bioengine worker`, as on a box of its own."""

    def __init__(self, url: str, folder: Path, name: str, token_file: Path, prefix: Sequence[str] = ()) -> None:
        """`prefix`: what begins the command, on another host."""
        arguments = (url, "--token-file", str(token_file), "--name", name)
        program = (*prefix, str(ROOT / "bioengine"))
        super().__init__(folder / name, *arguments, command="worker", wait=False, program=program)
        self.name = name

    @property
    def settings(self) -> Settings:
        (home,) = (self.home / "workers").iterdir()
        return Settings(home=home)

    def is_joined(self) -> bool:
        return (self.home / "workers").is_dir() and (self.settings.node_folder / JOINED).exists()


class Cluster:
    """A server and its workers."""

    def __init__(self, home: Path, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.server = Stack(home, "--workers-only", *arguments)
        self.token_file = folder / "worker.token"
        self.token_file.write_text(self.server.token("workers", "--worker"))
        self.boxes: dict[str, WorkerBox] = {}

    def add(self, name: str) -> WorkerBox:
        box = self.boxes[name] = WorkerBox(self.server.url, self.folder, name, self.token_file)
        box.start()
        return box

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the server says of each."""
        found = json.loads(bioengine("workers", "--json", "--home", str(self.server.home)).stdout)
        return {each["name"]: each for each in found["workers"]}

    def ready(self) -> int:
        return int(get(f"{self.server.url}/health/readiness")[1].get("workers", 0))

    def wait_for_workers(self, number: int, seconds: float = 60) -> float:
        return wait_for(lambda: self.ready() == number, seconds, f"{number} workers")

    def stop(self) -> None:
        for box in self.boxes.values():
            if box.process is not None and box.process.poll() is None:
                box.process.send_signal(signal.SIGCONT)
                box.stop()
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.stop()


@pytest.fixture
def cluster(own_home: Path, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(own_home, tmp_path)
    try:
        made.server.start()
        yield made
    finally:
        made.stop()


class Load:
    """Clients of both generations who compare every answer."""

    def __init__(self, cluster: Cluster, packages: Path, of_each: int = 8) -> None:
        cases: dict[str, Any] = {"ids": " ".join(MODELS)}
        for id in MODELS:
            cases[f"{id}-input"], cases[f"{id}-output"] = (
                example_input(packages, id)[0],
                np.load(packages / id / "test_output.npy"),
            )
        file = cluster.folder / "cases.npz"
        np.savez(file, **cases)
        program = str(ROOT / "tests" / "stack" / "cluster_client.py")
        self._programs = [
            subprocess.Popen(
                [python(f"client-{library}"), program, library, cluster.server.url, str(of_each), str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # their libraries tell there how they connect again
                text=True,
            )
            for library in ("imjoy", "hypha")
        ]
        self.right = 0
        self.answered: set[tuple[int, int]] = set()
        self._callers = of_each * len(self._programs)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.kill()
            program.wait()

    def told(self) -> tuple[list[str], float]:
        """The failures since the last time, and the longest time without a right answer, in seconds. No answer is wrong."""
        failures: list[str] = []
        gap = 0.0
        for number, program in enumerate(self._programs):
            assert program.stdin and program.stdout
            print("", file=program.stdin, flush=True)
            said = json.loads(program.stdout.readline())
            assert said["wrong"] == 0
            self.right += said["right"]
            self.answered |= {(number, caller) for caller in said["answered"]}
            failures += said["failures"]
            gap = max(gap, said["gap"])
        return failures, gap

    def has_all_callers(self) -> bool:
        """Whether each has had a right answer since `answered` was cleared."""
        self.told()
        return len(self.answered) == self._callers

    def survives(self, what: str, event: Callable[[], object], seconds: float = 6, most: float = 10) -> None:
        """No answer is lost when something happens, and right ones go on coming, with gaps of `most` seconds at most."""
        before = self.right
        event()
        time.sleep(seconds)
        failures, gap = self.told()
        print(f"{what}: {self.right - before} right answers, longest gap {gap:.1f} s, {len(failures)} failures")
        assert failures == [] and gap < most and self.right > before, (what, failures[:3], gap)


@pytest.mark.extended
def test_nothing_is_lost_under_sixteen_clients(cluster: Cluster, packages: Path) -> None:
    assert get(f"{cluster.server.url}/health/readiness")[0] == 200, "or nobody could wait for a worker"
    for name in ("one", "two"):
        cluster.add(name)
    print(f"two workers, from their commands to ready: {cluster.wait_for_workers(2):.1f} s")
    with Load(cluster, packages) as load:
        wait_for(lambda: load.has_all_callers() and load.right > 50, 60, "answers")
        load.survives("load alone", lambda: None)
        load.survives("a worker joins", lambda: cluster.add("three"), 15)
        assert cluster.wait_for_workers(3)
        busy = max(cluster.workers().values(), key=lambda each: len(each["models"]))["name"]
        box = cluster.boxes[busy]
        load.survives(f"SIGKILL of a model's process on {busy}", box.models()[0].kill)
        load.survives(f"SIGKILL of the Triton of {busy}", lambda: box.triton().kill(), 12)
        assert cluster.wait_for_workers(3, 20) < 20
        busy = max(cluster.workers().values(), key=lambda each: len(each["models"]))["name"]
        box = cluster.boxes.pop(busy)
        assert box.process is not None
        load.survives(f"SIGKILL of the worker {busy}", lambda: _kill(box), 8)
        assert cluster.ready() == 2
        name = next(iter(cluster.boxes))
        stopped = cluster.boxes[name]
        assert stopped.process is not None
        pid = stopped.process.pid
        load.survives(f"SIGSTOP of {name} for 20 s", lambda: os.kill(pid, signal.SIGSTOP), 20)
        load.survives(f"SIGCONT of {name}", lambda: os.kill(pid, signal.SIGCONT), 5)
        assert cluster.wait_for_workers(2, 10) < 10
        gone = cluster.boxes.pop(name)
        load.survives(f"SIGTERM of {name}", lambda: print(f"{name} has ended after {gone.stop():.1f} s"), 3)
        assert gone.process is not None and gone.process.returncode == 0 and gone.leftovers() == []
        cluster.add("four")
        cluster.wait_for_workers(2)
        load.told()
        _restart_server(cluster, load)
        (kept,) = [name for name in cluster.boxes if name != "four"]
        drained = bioengine("workers", "drain", kept, "--home", str(cluster.server.home))
        assert drained.returncode == 0, drained.stderr
        # The other one may have to load its models first.
        load.survives(f"{kept} is drained", lambda: wait_for(lambda: _ended(cluster.boxes[kept]), 15, "its end"), 2, most=30)
    print(f"{load.right} right answers in all")
    box.__exit__()
    assert _swept(box, cluster), "what a killed worker leaves in memory goes with the next start on its machine"


@pytest.mark.extended
@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists(TUN), reason="network namespaces and TUN devices need root")
def test_a_worker_behind_a_poor_network_that_is_cut_for_a_while(own_home: Path, packages: Path, tmp_path: Path) -> None:
    with two_hosts(delay=0.02, loss=0.01) as (wire, on_other_host):
        cluster = Cluster(own_home, tmp_path, "--host", "0.0.0.0", "--access", "open")
        try:
            cluster.server.start()
            url = f"http://{HERE}:{cluster.server.port}"
            box = cluster.boxes["far"] = WorkerBox(url, tmp_path, "far", cluster.token_file, on_other_host)
            box.start()
            print(f"ready after {cluster.wait_for_workers(1):.1f} s")
            with Load(cluster, packages, of_each=2) as load:
                wait_for(lambda: load.told() and load.right > 10, 60, "answers")
                load.survives("20 ms each way, 1 % lost", lambda: None, 10)
                before = load.right
                wire.is_cut = True
                time.sleep(30)
                wire.is_cut = False
                back = cluster.wait_for_workers(1, 10)
                time.sleep(5)
                failures, gap = load.told()
                print(f"cut for 30 s: {gap:.1f} s without answers, the worker back after {back:.1f} s")
                assert failures == [] and load.right > before, failures[:3]
            print(f"{load.right} right answers, {wire.carried} packets, {wire.lost} lost")
        finally:
            cluster.stop()


def _restart_server(cluster: Cluster, load: Load) -> None:
    """Back in 5 s, with its workers in 3 more; callers are told to send again, and do."""
    stopped = cluster.server.stop()
    started = time.monotonic()
    cluster.server.start()
    back = time.monotonic() - started
    workers = cluster.wait_for_workers(2, 10)
    time.sleep(8)
    failures, gap = load.told()
    print(f"server stopped in {stopped:.1f} s, ready after {back:.1f} s more, workers {workers:.1f} s later")
    print(f"{len(failures)} requests failed, such as: {failures[:2]}; {gap:.1f} s without answers")
    load.answered.clear()
    wait_for(load.has_all_callers, 90, "answers to all clients, once they have connected anew")
    load.survives("after the restart", lambda: None, 3)
    assert workers < 5


def _kill(box: WorkerBox) -> None:
    assert box.process is not None
    box.process.kill()
    box.process.wait()


def _ended(box: WorkerBox) -> bool:
    return box.process is not None and box.process.poll() == 0


def _swept(box: WorkerBox, cluster: Cluster) -> bool:
    """Whether nothing of a killed worker is left once another one has started."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not box.shared_memory() and not box.triton_processes(), 5, "the sweep")
    return not box.shared_memory() and not box.triton_processes()
