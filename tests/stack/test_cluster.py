"""Workers of a cluster are killed, stopped, started and restarted under 16 clients of both generations, and no answer is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.cluster import Cluster, Load, WorkerBox
from tests.stack.harness import bioengine, get, wait_for


@pytest.fixture
def cluster(own_home: Path, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(own_home, tmp_path)
    try:
        made.server.start()
        yield made
    finally:
        made.stop()


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
