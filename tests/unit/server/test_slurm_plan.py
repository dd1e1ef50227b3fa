"""Which jobs the loop for Slurm starts and ends: from what squeue and the server say, without either."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from bioengine_server.slurm.errors import UnfitOptions, UnreadableSlurm
from bioengine_server.slurm.jobs import Job, read_jobs
from bioengine_server.slurm.need import Need, needed_now
from bioengine_server.slurm.plan import Plan, plan
from bioengine_server.slurm.queue import read_options
from bioengine_server.slurm.server import Figures

NOW = 1_800_000_000.0
OVERLAP = 600.0


def worker(name: str, state: str = "ready", places: int = 4, in_flight: int = 0) -> dict[str, Any]:
    return {"name": name, "state": state, "places": places, "in_flight": in_flight, "host": "n1", "models": [], "last_seen": 0.1}


def figures(*workers: dict[str, Any], waiting: int = 0, running: int = 0) -> Figures:
    return Figures.model_validate({"workers": list(workers), "waiting": waiting, "running": running})


def running(job_id: int, left: float = 7200.0, limit: float | None = 28800.0, state: str = "RUNNING") -> Job:
    return Job(str(job_id), state, NOW + left, limit, "n1")


def waiting(job_id: int) -> Job:
    return Job(str(job_id), "PENDING", reason="Priority")


def planned(jobs: list[Job], found: Figures, needed: int, told: Collection[str] = ()) -> tuple[int, list[str], list[str]]:
    result = plan(jobs, found, needed, told, OVERLAP, NOW)
    return result.start, [job.id for job in result.cancel], [job.id for job in result.end]


def test_what_squeue_prints_is_read() -> None:
    text = (
        "17|RUNNING|1800003600|8:00:00|gpu[1-2]|None\n"
        "18|PENDING|N/A|1-12:00:00||ReqNodeNotAvail, UnavailableNodes:gpu3\n"
        "19|RUNNING|NONE|UNLIMITED|gpu4|None\n"
        "20_3|RUNNING|1800003600|30:00|gpu5|None\n"
    )
    assert read_jobs(text) == [
        Job("17", "RUNNING", 1800003600.0, 28800.0, "gpu[1-2]"),
        Job("18", "PENDING", None, 129600.0, "", "ReqNodeNotAvail, UnavailableNodes:gpu3"),
        Job("19", "RUNNING", None, None, "gpu4"),
    ]
    assert read_jobs("") == []


@pytest.mark.parametrize("text", ["JOBID|STATE", "17 RUNNING", "<html>", "17|Running|x|y|z|w"])
def test_anything_else_is_no_answer_of_squeue(text: str) -> None:
    with pytest.raises(UnreadableSlurm, match=r"squeue printed .* Check that it is Slurm's own"):
        read_jobs(text)


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        (figures(), 0),
        (figures(waiting=1), 1),
        (figures(waiting=4), 1),
        (figures(waiting=5), 2),
        (figures(worker("n1-7", places=2, in_flight=2), waiting=1, running=2), 2),
        (figures(worker("n1-7"), running=3), 1),
        (figures(worker("workstation", places=4), waiting=2, running=4), 1),
        (figures(worker("workstation", places=4), running=4), 0),
        (figures(worker("workstation", "draining"), waiting=1), 1),
    ],
)
def test_so_many_jobs_are_needed_beside_other_workers(found: Figures, needed: int) -> None:
    assert needed_now(found, {"7"}) == needed


def test_workers_are_added_at_once_and_given_up_when_long_not_needed() -> None:
    need = Need(0, 4, idle=300)
    seen = []
    asked = {0: 0, 10: 1, 20: 3, 30: 9, 40: 1, 100: 2, 329: 0, 331: 0, 399: 0, 401: 0, 701: 0}
    for second, needed in asked.items():
        need.see(needed, float(second))
        seen.append(need.workers)
    assert seen == [0, 1, 3, 4, 4, 4, 4, 2, 2, 0, 0]
    least = Need(1, 4, idle=0)
    least.see(0, 0.0)
    assert least.workers == 1


def test_jobs_that_wait_count_as_there() -> None:
    assert planned([waiting(1), running(2)], figures(), 3) == (1, [], [])
    assert planned([], figures(), 2) == (2, [], [])


def test_ended_jobs_and_those_told_to_end_do_not() -> None:
    ended = [running(1, state=state) for state in ("COMPLETED", "PREEMPTED", "COMPLETING", "TIMEOUT", "CANCELLED", "FAILED")]
    assert planned([*ended, running(2), running(3)], figures(worker("n1-3", "draining")), 1, {"2"}) == (1, [], [])


def test_those_that_wait_are_given_up_first_then_those_that_do_least() -> None:
    jobs = [running(1), running(2), running(3, left=5000), waiting(4), waiting(5)]
    found = figures(worker("n1-1", in_flight=2), worker("n1-2"), worker("n1-3"))
    assert planned(jobs, found, 4) == (0, ["5"], [])
    assert planned(jobs, found, 2) == (0, ["5", "4"], ["3"])
    assert planned(jobs, found, 0) == (0, ["5", "4"], ["3", "2", "1"])


def test_a_job_near_its_end_gets_a_successor_and_ends_when_that_has_joined() -> None:
    old, new = running(1, left=500), waiting(2)
    found = figures(worker("n1-1", in_flight=3))
    assert planned([old], found, 1) == (1, [], [])
    assert planned([old, new], found, 1) == (0, [], [])
    assert planned([old, running(2)], figures(worker("n1-1"), worker("n1-2", "starting")), 1) == (0, [], [])
    assert planned([old, running(2)], figures(worker("n1-1"), worker("n1-2")), 1) == (0, [], ["1"])
    assert planned([old], found, 0) == (0, [], ["1"])


def test_short_jobs_do_not_follow_each_other_without_end() -> None:
    assert not running(1, left=500, limit=900).ends_within(OVERLAP, NOW)
    assert running(1, left=100, limit=900).ends_within(OVERLAP, NOW)
    assert not Job("1", "RUNNING").ends_within(OVERLAP, NOW)


def test_a_preempted_job_has_a_successor_until_one_of_them_is_too_many() -> None:
    grace = running(1, left=60)  # Slurm moves the end of a job that it preempts
    assert planned([grace], figures(worker("n1-1", in_flight=1)), 1) == (1, [], [])
    assert planned([grace, waiting(2)], figures(worker("n1-1", "draining", in_flight=1)), 1) == (0, [], [])
    requeued = Job("1", "PENDING", NOW + 3600, 3600.0, reason="BeginTime")
    assert planned([requeued, waiting(2)], figures(), 1) == (0, ["1"], [])  # Slurm holds it back for two minutes
    assert planned([requeued], figures(), 1) == (0, [], [])


def test_an_empty_plan_is_nothing_to_do() -> None:
    assert not Plan() and Plan(start=1)


@pytest.mark.parametrize(
    ("job", "stuck"),
    [
        (Job("1", "PENDING", reason="launch failed requeued held"), True),
        (Job("1", "PENDING", reason="JobHeldAdmin"), True),
        (Job("1", "PENDING", reason="PartitionTimeLimit"), True),
        (Job("1", "PENDING", reason="InvalidAccount"), True),
        (Job("1", "PENDING", reason="Priority"), False),
        (Job("1", "PENDING", reason="QOSMaxGRESPerUser"), False),
        (Job("1", "PENDING", reason="BeginTime"), False),
    ],
)
def test_what_waits_for_somebody_is_known(job: Job, stuck: bool) -> None:
    assert job.stuck == stuck


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("--job-name=x", "choose it with --name"),
        ("-Jx", "choose it with --name"),
        ("-p gpu -a 1-3", "one job for each worker"),
        ("--array=1-3", "one job for each worker"),
        ("--wrap 'sleep 1'", "--script"),
        ("-M other", "one cluster"),
        ("gpu", "begin with - or --"),
        ("--comment='x", "quotes in pairs"),
        ("--test-only", "--check does that"),
    ],
)
def test_options_that_the_loop_cannot_work_with_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UnfitOptions, match=reason):
        read_options(text)


def test_other_options_are_passed_on() -> None:
    text = '--gres=gpu:1 -A proj --mail-user="a b" --hint=nomultithread --account=x'
    assert read_options(text) == ["--gres=gpu:1", "-A", "proj", "--mail-user=a b", "--hint=nomultithread", "--account=x"]
