"""A FAKE of sbatch, squeue, scancel and scontrol: Slurm's queue is a JSON file beside it.

It prints what Slurm 22.05 prints. In the file, `refuse` is what sbatch refuses jobs with, and `away` that the controller is away.
Every call is noted. What the real programs do is tried in tests/slurm.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent / "queue.json"
CONFIGURATION = """Configuration data as of 2026-11-27T02:00:00
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SLURM_VERSION           = 22.05.8
SlurmctldParameters     = {parameters}
"""


def main(program: str, arguments: list[str]) -> int:
    queue = json.loads(FILE.read_text())
    queue["calls"].append([program, *arguments])
    try:
        return answer(program, arguments, queue)
    finally:
        FILE.write_text(json.dumps(queue))


def answer(program: str, arguments: list[str], queue: dict) -> int:
    if queue["away"]:
        print("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    if program == "squeue":
        assert os.environ["SLURM_TIME_FORMAT"] == "%s" and not os.environ.get("SQUEUE_STATES")
        name = next(each.partition("=")[2] for each in arguments if each.startswith("--name="))
        for job in queue["jobs"]:
            if job["name"] == name:
                print("|".join(str(job[key]) for key in ("id", "state", "ends", "limit", "nodes", "reason")))
        print(queue["noise"], end="")
    elif program == "sbatch":
        queue["environment"] = dict(os.environ)
        if queue["refuse"]:
            print(f"sbatch: error: {queue['refuse']}", file=sys.stderr)
            return 1
        if "--test-only" not in arguments:
            job_id = 1 + max((job["id"] for job in queue["jobs"]), default=0)
            job = {"id": job_id, "state": "PENDING", "ends": "N/A", "limit": "1:00:00", "nodes": "", "reason": "Priority"}
            queue["jobs"].append({**job, "name": arguments[arguments.index("--job-name") + 1]})
            print(job_id)
    elif program == "scancel":
        (job,) = (job for job in queue["jobs"] if str(job["id"]) == arguments[-1])
        if "--state=PENDING" in arguments:
            job["state"] = "CANCELLED" if job["state"] == "PENDING" else job["state"]
        else:
            assert {"--batch", "--signal=TERM"} <= set(arguments) and job["state"] == "RUNNING"
    elif arguments == ["show", "config"]:
        print(CONFIGURATION.format(parameters=queue["parameters"]))
    elif arguments[:2] == ["show", "job"]:
        print(f"JobId={arguments[2]}\n   StdOut={FILE.parent}/{arguments[2]}.log\n")
    return 0
