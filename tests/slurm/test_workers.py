"""`bioengine slurm` on a real Slurm, with a real server that has no Triton of its own, and real workers in its jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.slurm.cluster import GRACE, Cluster
from tests.slurm.driving import Driver, environment_of, fill, wait_for
from tests.stack.harness import Stack, bioengine, example_input, example_output, fill_home, get

MODELS = ("conscientious-seashell", "old-otter")
SOON = 600.0  # seconds; some ten, unless the machine is overloaded


@pytest.fixture(scope="module")
def server(cluster: Cluster, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`up --workers-only`."""
    home = tmp_path_factory.mktemp("server") / "home"
    fill_home(home, packages)
    with Stack(home, "--workers-only", BIOENGINE_WORKER_WAIT="10m", BIOENGINE_RUN_TIMEOUT="600") as running:
        yield running


@pytest.fixture(scope="module")
def token_file(server: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("token") / "worker.token"
    made = bioengine("token", "create", "slurm", "--worker", "--home", str(server.home))
    assert made.returncode == 0, made.stderr
    file.write_text(made.stdout)
    file.chmod(0o600)
    return file


class Caller:
    """Runs models one after the other in a thread of its own, and compares every answer."""

    def __init__(self, server: Stack, packages: Path) -> None:
        self.right = 0
        self.wrong: list[Any] = []
        self.longest = 0.0
        self._server, self._packages = server, packages
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _call(self) -> None:
        with self._server.client() as client:
            while not self._stop.is_set():
                for model in MODELS:
                    began = time.monotonic()
                    try:
                        self._compare(model, client.run(model, example_input(self._packages, model)))
                    except Exception as error:  # whatever a caller may be told
                        self.wrong.append(error)
                    self.longest = max(self.longest, time.monotonic() - began)
                self._stop.wait(0.2)

    def _compare(self, model: str, result: dict[str, Any]) -> None:
        expected = example_output(self._packages, model)
        if result.get("success") and all(np.allclose(a, b, atol=1e-4) for a, b in zip(result["outputs"], expected)):
            self.right += 1
        else:
            self.wrong.append(result)


def driver(cluster: Cluster, folder: Path, server: Stack, token_file: Path, name: str, *options: str) -> Driver:
    # Their home is shared, as it is by workers on one node.
    export = f"--export=ALL,BIOENGINE_HOME={folder / 'node'}"
    (sbatch,) = (option.removeprefix("--sbatch=") for option in options if option.startswith("--sbatch="))
    others = [option for option in options if not option.startswith("--sbatch=")]
    return Driver(cluster, folder, server.url, token_file, name, f"--sbatch={sbatch} {export}", *others)


def test_from_zero_workers_to_the_answer_and_back(
    cluster: Cluster, server: Stack, token_file: Path, packages: Path, tmp_path: Path
) -> None:
    with driver(cluster, tmp_path, server, token_file, "answer", "--idle=10s", "--sbatch=--gres=gpu:1") as loop:
        wait_for(lambda: "Jobs named answer" in loop.log, SOON, "start", loop)
        assert get(f"{server.url}/health/readiness")[0] == 200 and not loop.jobs
        began = time.monotonic()
        with Caller(server, packages) as caller:
            wait_for(lambda: caller.right or caller.wrong, SOON, "an answer", loop)
            print(f"from zero workers to the answer: {time.monotonic() - began:.1f} s")
        assert not caller.wrong
        wait_for(lambda: not loop.alive, SOON, "the end of what nobody needs", loop)
        assert {state for state, *_ in loop.jobs.values()} <= {"COMPLETED", "COMPLETING"}, loop.jobs


def test_a_preempted_worker_loses_no_request(
    cluster: Cluster, server: Stack, token_file: Path, packages: Path, tmp_path: Path
) -> None:
    with driver(cluster, tmp_path, server, token_file, "preempted", "--min=1", "--max=1", "--sbatch=--gres=gpu:2") as loop:
        with Caller(server, packages) as caller:
            wait_for(lambda: caller.right > 4, SOON, "answers", loop)
            (first,) = loop.alive
            urgent = fill(cluster, 600, "--gres=gpu:2", f"--nodelist={loop.jobs[first][1]}")
            wait_for(lambda: first not in loop.alive, GRACE + 60, "the end of the preempted job", loop)
            before = caller.right
            wait_for(lambda: caller.right > before + 4, SOON, "answers of a successor", loop)
            cluster.run("scancel", urgent)
        print(f"preemption: {caller.right} answers, {len(caller.wrong)} failed, the longest took {caller.longest:.1f} s")
        assert not caller.wrong
        assert loop.state(first) == "COMPLETED" and len(loop.alive) == 1  # it ended by itself, in the grace time


@pytest.mark.extended
def test_a_worker_that_is_killed_at_preemption_is_requeued_and_its_requests_run_elsewhere(
    cluster: Cluster, server: Stack, token_file: Path, packages: Path, tmp_path: Path
) -> None:
    options = "--sbatch=--gres=gpu:2 --signal=B:CONT@60"  # no SIGTERM at the beginning of the grace time
    with driver(cluster, tmp_path, server, token_file, "requeued", "--min=1", "--max=1", options) as loop:
        with Caller(server, packages) as caller:
            wait_for(lambda: caller.right > 4, SOON, "answers", loop)
            (first,) = loop.alive
            urgent = [fill(cluster, 600, "--gres=gpu:2", f"--nodelist={node}") for node in ("n1", "n2")]
            wait_for(lambda: loop.state(first) in ("PENDING", "CANCELLED"), GRACE + 120, "the requeue", loop)
            wait_for(lambda: len(loop.alive) == 1, SOON, "one that waits", loop)
            for job in urgent:
                cluster.run("scancel", job)
            before = caller.right
            wait_for(lambda: caller.right > before + 4, SOON, "answers again", loop)
        print(f"requeue: {caller.right} answers, {len(caller.wrong)} failed, the longest took {caller.longest:.1f} s")
        assert not caller.wrong and len(loop.alive) == 1


@pytest.mark.extended
def test_the_end_of_an_allocation_loses_no_request(
    cluster: Cluster, server: Stack, token_file: Path, packages: Path, tmp_path: Path
) -> None:
    options = "--sbatch=--gres=gpu:1 --time=3 --signal=B:TERM@20"
    with driver(cluster, tmp_path, server, token_file, "end", "--min=1", "--max=1", options) as loop:
        with Caller(server, packages) as caller:
            wait_for(lambda: caller.right > 0, SOON, "an answer", loop)
            (first,) = loop.alive
            wait_for(lambda: first not in loop.alive, 300, "the end of the first job", loop)
            before = caller.right
            wait_for(lambda: caller.right > before + 4, SOON, "answers of the successor", loop)
        print(f"end: {caller.right} answers, {len(caller.wrong)} failed, the longest took {caller.longest:.1f} s")
        assert not caller.wrong
        assert loop.state(first) == "COMPLETED" and len(loop.alive) == 1


def test_two_workers_on_one_node_share_nothing_by_accident(
    cluster: Cluster, server: Stack, token_file: Path, packages: Path, tmp_path: Path
) -> None:
    with driver(cluster, tmp_path, server, token_file, "two", "--min=2", "--sbatch=--gres=gpu:1 --nodelist=n1") as loop:
        with Caller(server, packages) as caller:
            wait_for(lambda: len([*(tmp_path / "node" / "workers").glob("*")]) == 2, SOON, "two homes", loop)
            wait_for(lambda: _joined(loop) == 2, SOON, "two workers", loop)
            before = caller.right
            wait_for(lambda: caller.right > before + 4, SOON, "answers", loop)
        assert not caller.wrong and {node for _, node in loop.jobs.values()} == {"n1"}
        visible = {environment_of(process).get("CUDA_VISIBLE_DEVICES") for process in _batches(cluster, loop)}
        assert visible == {"0", "1"}


def _joined(loop: Driver) -> int:
    logs = [file.read_text(errors="replace") for file in loop.folder.glob("bioengine-worker-*.log")]
    return sum("Joined " in log for log in logs)


def _batches(cluster: Cluster, loop: Driver) -> list[int]:
    """The workers' processes, which have taken the place of the jobs' scripts."""
    found = []
    for job in loop.alive:
        lines = cluster.run("scontrol", "listpids", job, "n1", check=False).splitlines()[1:]
        found += [int(line.split()[0]) for line in lines if line.split()[0].isdigit()]
    return found
