"""The loop for Slurm with FAKE programs of Slurm (fake_slurm.py) and a server that answers with figures of the test's choice."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.server.slurm_world import World, world
from tests.unit.server.test_slurm_plan import worker

__all__ = ["world"]


def test_from_zero_to_the_most_and_back(world: World) -> None:
    world.step()
    assert world.slurm.states == {}
    world.server.set(waiting=1)
    world.step(2)
    assert world.slurm.states == {1: "PENDING"}
    world.server.set(waiting=30)
    world.step(2)
    world.step(2)
    assert world.slurm.states == {1: "PENDING", 2: "PENDING"}
    world.slurm.begin(1)
    world.server.set(worker("n1-1", in_flight=2), running=2)
    world.step(20)
    world.server.set(worker("n1-1"))
    world.step(310)
    assert world.slurm.states == {1: "RUNNING", 2: "CANCELLED"}
    world.step(20)
    assert [call for call in world.slurm.calls("scancel") if "--batch" in call] == [["--quiet", "--batch", "--signal=TERM", "1"]]


def test_the_job_runs_what_was_given_with_the_admins_options_and_not_with_the_loops_home(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOENGINE_HOME", "/home/of/the/loop")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")  # of the admin's own shell: would hide jobs that wait
    world.server.set(waiting=1)
    world.step()
    (call,) = world.slurm.calls("sbatch")
    assert call[:4] == ["--parsable", "--gres=gpu:1", "--job-name", "bioengine-lab"]
    assert call[4].endswith("worker.sbatch") and call[5:] == ["bioengine", "worker", world.server.url]
    assert "BIOENGINE_HOME" not in world.slurm.load()["environment"]


def test_slurm_is_asked_seldom_while_nothing_is_to_do(world: World) -> None:
    world.step()
    before = len(world.slurm.calls("squeue"))
    for _ in range(6):
        world.step(2)
    assert len(world.slurm.calls("squeue")) == before
    world.step(4)
    assert len(world.slurm.calls("squeue")) == before + 1


def test_a_loop_that_starts_again_finds_its_jobs_and_leaves_others(world: World) -> None:
    world.server.set(waiting=5)
    world.step()
    queue = world.slurm.load()
    queue["jobs"].append({**queue["jobs"][0], "id": 3, "name": "somebody-elses", "state": "RUNNING"})
    world.slurm.save(queue)
    world.slurm.begin(1)
    world.server.set(worker("n1-1", in_flight=1), running=1)
    world.loop = world.started()
    world.step(2)
    assert world.slurm.states == {1: "RUNNING", 2: "PENDING", 3: "RUNNING"}  # needed until it was not for five minutes
    world.step(310)
    world.step(310)
    assert world.slurm.states == {1: "RUNNING", 2: "CANCELLED", 3: "RUNNING"}
    assert all(call[-1] != "3" for call in world.slurm.calls("scancel"))


def test_a_successor_starts_before_the_end_of_an_allocation(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.set(waiting=1)
    world.step()
    world.slurm.begin(1, ends=world.now + 3600)
    busy = worker("n1-1", in_flight=1)
    world.server.set(busy, running=1)
    world.step(20)
    world.step(2960)
    assert world.slurm.states == {1: "RUNNING"}
    world.step(30)
    assert world.slurm.states == {1: "RUNNING", 2: "PENDING"}
    world.slurm.begin(2, ends=world.now + 3600)
    world.server.set(busy, worker("n1-2"), running=1)
    world.step(20)
    assert world.slurm.calls("scancel") == [["--quiet", "--batch", "--signal=TERM", "1"]]
    world.slurm.job(1, state="FAILED")  # killed when it was about to end
    world.server.set(worker("n1-2", in_flight=1), running=1)
    world.step(20)
    assert world.slurm.states == {1: "FAILED", 2: "RUNNING"}
    assert "Job 1 has ended (FAILED)" in caplog.text and "joined the server" not in caplog.text


def test_a_job_that_was_preempted_and_requeued_is_counted_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.set(waiting=1)
    world.step()
    world.slurm.begin(1)
    world.server.set(worker("n1-1", in_flight=1), running=1)
    world.step(20)
    world.slurm.job(1, state="PENDING", reason="BeginTime", nodes="")
    world.server.set(waiting=1)
    for _ in range(3):
        world.step(20)
    assert world.slurm.states == {1: "PENDING"}
    assert "Job 1 was requeued, and waits (BeginTime)." in caplog.text


def test_jobs_that_fail_are_not_submitted_on_and_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.set(waiting=1)
    (world.slurm.folder / "1.log").write_text("a\nbioengine: The token has been revoked.\nslurmstepd: error: x\n\n")
    submitted: list[float] = []
    for _ in range(42):
        world.step(15)
        jobs = world.slurm.states
        submitted += [world.now] * (len(jobs) - len(submitted))
        for job, state in jobs.items():
            if state == "PENDING":
                world.slurm.job(job, state="COMPLETED")  # at once, without having joined
    pauses = [later - earlier for earlier, later in itertools.pairwise(submitted)]
    assert 3 <= len(pauses) <= 6 and pauses == sorted(pauses) and pauses[0] <= 45 and pauses[-1] >= 150, pauses
    assert "Job 1 ended (COMPLETED) before its worker had joined the server." in caplog.text
    assert "which ends with: bioengine: The token has been revoked" in caplog.text


def test_a_worker_that_crashed_counts_as_failed_although_it_had_joined(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.set(waiting=1)
    world.step()
    world.slurm.begin(1)
    world.server.set(worker("n1-1", in_flight=1), running=1)
    world.step(20)
    world.slurm.job(1, state="OUT_OF_MEMORY")
    world.server.set(waiting=1)
    world.step(20)
    assert world.slurm.states == {1: "OUT_OF_MEMORY"}
    assert "Job 1 ended (OUT_OF_MEMORY). Its log is" in caplog.text
    world.step(12)
    assert world.slurm.states[2] == "PENDING"


def test_what_slurm_forgot_has_ended(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.server.set(waiting=1)
    world.step()
    world.slurm.set(jobs=[])
    world.step(20)
    assert "Job 1 ended (GONE) before its worker had joined" in caplog.text and world.slurm.states == {}


def test_a_job_that_did_not_listen_is_told_again_and_one_that_drains_is_not(world: World) -> None:
    world.server.set(waiting=1)
    world.step()
    world.slurm.begin(1)
    world.server.set()
    world.step(20)
    world.step(310)
    world.step(20)
    assert len(world.slurm.calls("scancel")) == 1
    world.step(110)
    assert len(world.slurm.calls("scancel")) == 2
    world.server.set(worker("n1-1", "draining"))
    world.step(310)
    assert len(world.slurm.calls("scancel")) == 2


def test_a_worker_that_has_left_is_replaced_at_once(world: World) -> None:
    world.server.set(waiting=1)
    world.step()
    world.slurm.begin(1)
    world.server.set(worker("n1-1", in_flight=1), running=1)
    world.step(20)
    world.slurm.job(1, state="COMPLETED")  # after a preemption
    world.server.set(waiting=1)
    world.step(2)
    assert world.slurm.states == {1: "COMPLETED", 2: "PENDING"}
