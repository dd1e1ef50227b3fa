"""`bioengine slurm` on a real Slurm. The server and the workers are stand-ins (stand_in.py); test_workers.py has real ones."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import GRACE, Cluster
from tests.slurm.driving import Driver, fill, stand_in_script, wait_for
from tests.slurm.stand_in import StandInServer

TOKEN = "of-the-stand-in"
SOON = 240.0  # seconds; Slurm begins a job within some, and the command starts in one, unless the machine is overloaded


@pytest.fixture
def server() -> Iterator[StandInServer]:
    running = StandInServer(TOKEN)
    yield running
    running.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "worker.token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return file


def driver(cluster: Cluster, folder: Path, server: StandInServer, name: str, *options: str, **environment: str) -> Driver:
    script = stand_in_script(folder)
    return Driver(
        cluster, folder, server.url, folder / "worker.token", name, f"--script={script}", "--idle=5s", *options, **environment
    )


def test_from_zero_to_a_worker_and_back(cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path) -> None:
    others = cluster.run("sbatch", "--parsable", "--job-name=of-somebody", "--output=/dev/null", "--wrap=sleep 300")
    with driver(cluster, tmp_path, server, "zero", "--sbatch=--gres=gpu:1") as loop:
        wait_for(lambda: "Jobs named zero" in loop.log, SOON, "start", loop)
        time.sleep(5)
        assert not loop.jobs
        server.waiting = 1
        print(f"a worker after {wait_for(lambda: server.workers, SOON, 'a worker', loop):.1f} s")
        server.waiting = 0
        wait_for(lambda: not loop.alive and not server.workers, SOON, "its end", loop)
        (state,) = {state for state, *_ in loop.jobs.values()}
        assert state in ("COMPLETED", "COMPLETING") and "joined the server" not in loop.log
        assert cluster.jobs("of-somebody")[others][0] == "RUNNING"
    cluster.run("scancel", others)


def test_a_loop_that_was_killed_finds_its_job(cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path) -> None:
    with driver(cluster, tmp_path, server, "killed", "--min=1", "--sbatch=--gres=gpu:1") as loop:
        wait_for(lambda: server.workers, SOON, "a worker", loop)
        (job,) = loop.alive
        assert loop.stop(signal.SIGKILL) == -signal.SIGKILL
        loop.start()
        wait_for(lambda: f"Found job {job}" in loop.log, SOON, "finding it", loop)
        time.sleep(10)
        assert loop.alive == [job] and [*server.workers]
        assert loop.stop() == 0 and loop.alive == [job]  # jobs go on without it


@pytest.mark.extended
def test_the_end_of_an_allocation_is_overlapped(
    cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path
) -> None:
    options = "--gres=gpu:1 --time=2 --signal=B:TERM@20"
    with driver(cluster, tmp_path, server, "end", "--min=1", "--max=1", f"--sbatch={options}") as loop:
        wait_for(lambda: server.workers, SOON, "a worker", loop)
        (first,) = loop.alive
        without = 0
        deadline = time.monotonic() + 200
        while first in loop.alive:
            without += not any(state == "ready" for state in server.workers.values())
            assert time.monotonic() < deadline, loop.log
            time.sleep(0.5)
        assert without == 0, loop.log
        (second,) = loop.alive
        assert loop.state(first) in ("COMPLETED", "COMPLETING") and loop.state(second) == "RUNNING"
        assert f"Told job {first} to finish and end" in loop.log


def test_a_preempted_worker_finishes_and_has_a_successor(
    cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path
) -> None:
    with driver(
        cluster, tmp_path, server, "preempted", "--min=1", "--max=1", "--sbatch=--gres=gpu:2", STAND_IN_SECONDS="5"
    ) as loop:
        wait_for(lambda: server.workers, SOON, "a worker", loop)
        (first,) = loop.alive
        urgent = fill(cluster, 20, "--gres=gpu:2", f"--nodelist={loop.jobs[first][1]}")
        wait_for(lambda: loop.state(first) == "COMPLETED", GRACE + 10, "its own end in the grace time", loop)
        wait_for(lambda: "ready" in server.workers.values(), SOON, "a successor", loop)
        (second,) = loop.alive
        assert second != first and loop.jobs[second][1] != loop.jobs[first][1]
        cluster.run("scancel", urgent, check=False)


@pytest.mark.extended
def test_a_worker_that_does_not_end_in_its_grace_time_is_requeued_and_counted_once(
    cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path
) -> None:
    with driver(
        cluster, tmp_path, server, "requeued", "--min=1", "--max=1", "--sbatch=--gres=gpu:2", STAND_IN_SECONDS="300"
    ) as loop:
        wait_for(lambda: server.workers, SOON, "a worker", loop)
        (first,) = loop.alive
        urgent = [fill(cluster, 600, "--gres=gpu:2", f"--nodelist={node}") for node in ("n1", "n2")]
        wait_for(lambda: loop.state(first) == "PENDING", GRACE + 90, "the requeue", loop)
        wait_for(lambda: len(loop.alive) == 1, SOON, "one that waits", loop)
        time.sleep(20)
        assert len(loop.alive) == 1, loop.log
        for job in urgent:
            cluster.run("scancel", job)
        wait_for(lambda: "ready" in server.workers.values(), 180, "a worker again", loop)
        assert len(loop.alive) == 1


def test_two_workers_share_a_node(cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path) -> None:
    with driver(cluster, tmp_path, server, "two", "--min=2", "--sbatch=--gres=gpu:1 --nodelist=n1") as loop:
        wait_for(lambda: len(server.workers) == 2, SOON, "two workers", loop)
        assert {node for _, node in loop.jobs.values()} == {"n1"}
        assert {name.rpartition("-")[2] for name in server.workers} == set(loop.alive)


def test_what_slurm_refuses_ends_the_command_with_a_sentence(
    cluster: Cluster, server: StandInServer, token_file: Path, tmp_path: Path
) -> None:
    loop = driver(cluster, tmp_path, server, "refused")
    for options, said in [
        ("--partition=none", "Invalid partition name specified"),
        ("--gres=gpu:7", "Requested node configuration is not available"),
        ("--sporadic", "unrecognized option '--sporadic'"),
    ]:
        status, output = loop.once(f"--sbatch={options}")
        assert status == 1 and f'Slurm refuses the worker\'s job, with --sbatch "{options}"' in output and said in output, output
    status, output = loop.once("--check", "--sbatch=--gres=gpu:1")
    assert status == 0 and "workers get their signal at the beginning" in output, output
    token_file.write_text("another")
    status, output = loop.once()
    assert status == 1 and "refuses the workers' token" in output
    assert not loop.jobs
