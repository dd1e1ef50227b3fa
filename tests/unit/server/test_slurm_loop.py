"""The loop for Slurm with FAKE programs of Slurm (fake_slurm.py) and a server that answers with figures of the test's choice."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.cli import app
from bioengine_server.slurm.check import check
from bioengine_server.slurm.errors import (
    JobRefused,
    LoopRuns,
    NoSlurm,
    NoTokenFile,
    NoWorkersThere,
    ServerAway,
    SlurmFailed,
    UnreadableFigures,
    UnreadableSlurm,
    WorkerTokenRefused,
)
from bioengine_server.slurm.loop import Loop, only_loop
from bioengine_server.slurm.need import Need
from bioengine_server.slurm.queue import Queue
from bioengine_server.slurm.server import Server
from typer.testing import CliRunner

from tests.unit.server.test_slurm_plan import worker

FAKE = Path(__file__).with_name("fake_slurm.py")
TOKEN = "the-token"


class FakeSlurm:
    """Its queue, as the fake programs read and write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "fake_slurm.py"
        program.write_bytes(FAKE.read_bytes())
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            run = f'runpy.run_path("{program}")["main"]("{name}", sys.argv[1:])'
            (folder / name).write_text(f"#!{sys.executable} -IS\nimport runpy, sys\nsys.exit({run})\n")
            (folder / name).chmod(0o755)
        self.save({"jobs": [], "calls": [], "refuse": "", "away": False, "noise": "", "parameters": "preempt_send_user_signal"})

    def load(self) -> dict[str, Any]:
        return json.loads((self.folder / "queue.json").read_text())

    def save(self, queue: dict[str, Any]) -> None:
        (self.folder / "queue.json").write_text(json.dumps(queue))

    def set(self, **changes: Any) -> None:
        self.save({**self.load(), **changes})

    def job(self, number: int, **changes: Any) -> None:
        queue = self.load()
        for job in queue["jobs"]:
            if job["id"] == number:
                job.update(changes)
        self.save(queue)

    def begin(self, number: int, ends: float = 0.0) -> None:
        self.job(number, state="RUNNING", nodes="n1", reason="None", ends=int(ends) or "NONE")

    @property
    def states(self) -> dict[int, str]:
        return {job["id"]: job["state"] for job in self.load()["jobs"]}

    def calls(self, program: str) -> list[list[str]]:
        return [call[1:] for call in self.load()["calls"] if call[0] == program]


class FakeServer:
    """Answers `GET /workers` with `answer`, whatever else is asked with 404."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.status = 200
        self.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                right = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status = 404 if self.path != "/workers" else outer.status if right else 401
                body = json.dumps(outer.answer if status == 200 else {"error": "The token is not valid."}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def set(self, *workers: dict[str, Any], waiting: int = 0, running: int = 0) -> None:
        self.answer = {"workers": list(workers), "waiting": waiting, "running": running}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class World:
    """Fakes of Slurm and of the server, a clock, and the loop between them."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        self.slurm, self.server, self.now = FakeSlurm(folder / "bin"), FakeServer(), 1_800_000_000.0
        self.token_file = folder / "worker.token"
        self.token_file.write_text(TOKEN + "\n")
        self.token_file.chmod(0o600)
        self.queue = Queue("bioengine-lab", ["--gres=gpu:1"], folder / "worker.sbatch", ["bioengine", "worker", self.server.url])
        self.loop = self.started()

    def started(self) -> Loop:
        """A loop that has just been started."""
        need = Need(0, 2, idle=300)
        return Loop(Server(self.server.url, self.token_file), self.queue, need, overlap=600, clock=lambda: self.now)

    def step(self, after: float = 0.0) -> None:
        self.now += after
        self.loop.step()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    caplog.set_level(logging.INFO, "bioengine_server.slurm")
    world = World(tmp_path)
    yield world
    world.server.close()


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


def test_a_refused_job_is_said_with_what_to_do_and_tried_again_later(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.slurm.set(refuse="Batch job submission failed: Invalid account or account/partition combination specified")
    world.server.set(waiting=1)
    world.step()
    for _ in range(4):
        world.step(2)
    assert len(world.slurm.calls("sbatch")) == 1
    assert 'with --sbatch "--gres=gpu:1": Batch job submission failed: Invalid account' in caplog.text
    world.slurm.set(refuse="")
    world.step(5)
    assert world.slurm.states == {1: "PENDING"}


def test_a_server_or_a_slurm_that_is_away_is_said_once_and_the_loop_goes_on(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bioengine_server.slurm.loop.ASK_INTERVAL", 0.01)
    world.slurm.set(away=True)
    world.server.set(waiting=1)
    stop = threading.Event()
    thread = threading.Thread(target=world.loop.run, args=[stop])
    thread.start()
    try:
        for _ in range(1000):
            if len(world.slurm.calls("squeue")) > 2 and world.slurm.load()["away"]:
                world.slurm.set(away=False)
            if "All is well again" in caplog.text:
                break
            stop.wait(0.02)
    except json.JSONDecodeError:
        pass  # read while it was written
    finally:
        stop.set()
        thread.join()
    assert caplog.text.count("Unable to contact slurm controller") == 1 and "it is asked again" in caplog.text


def test_each_thing_that_can_be_wrong_is_one_sentence(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(world.server.url, world.token_file)
    world.server.status = 503
    with pytest.raises(ServerAway, match="status 503"):
        server.figures()
    world.server.status = 404
    with pytest.raises(NoWorkersThere, match="no route /workers"):
        server.figures()
    world.server.status = 200
    answer: Any
    for answer in ([], {"workers": [{"name": "x"}], "waiting": 0, "running": 0}, {"workers": [], "waiting": -1, "running": 0}):
        world.server.answer = answer
        with pytest.raises(UnreadableFigures):
            server.figures()
    world.token_file.write_text("another")
    with pytest.raises(WorkerTokenRefused, match=r"The token is not valid. Workers could not join"):
        server.figures()
    for content, reason in [("", "is empty"), ("two words", "does not contain"), ("ü", "does not contain")]:
        world.token_file.write_text(content)
        with pytest.raises(NoTokenFile, match=reason):
            server.figures()
    with pytest.raises(NoTokenFile, match=r"cannot be read \(No such file"):
        Server(world.server.url, tmp_path / "none").figures()
    world.token_file.write_text(TOKEN)
    with pytest.raises(ServerAway, match="does not answer"):
        Server("http://127.0.0.1:1", world.token_file).figures()
    world.slurm.set(away=True)
    with pytest.raises(SlurmFailed, match="Unable to contact slurm controller"):
        world.queue.jobs()
    world.slurm.set(away=False, noise="<html>")
    with pytest.raises(UnreadableSlurm):
        world.queue.jobs()
    world.slurm.set(refuse="invalid partition specified: nope")
    with pytest.raises(JobRefused, match="invalid partition"):
        world.queue.try_options()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSlurm, match="The program squeue is not here"):
        world.queue.jobs()


def test_two_loops_do_not_take_care_of_the_same_jobs(tmp_path: Path) -> None:
    with only_loop(tmp_path, "lab"):
        with only_loop(tmp_path, "other"):
            pass
        with pytest.raises(LoopRuns, match=r"takes care of the jobs named lab .* --name NAME"), only_loop(tmp_path, "lab"):
            pass
    with only_loop(tmp_path, "lab"):
        pass


def test_the_check_says_what_the_admin_must_set(world: World) -> None:
    def found() -> list[tuple[bool | None, str]]:
        return [*check(Server(world.server.url, world.token_file), world.queue, world.token_file)]

    assert [good for good, _ in found()] == [True, True, True, None, True]  # the server is on loopback
    world.slurm.set(parameters="(null)")
    assert any(good is None and "SlurmctldParameters=preempt_send_user_signal" in text for good, text in found())
    world.slurm.set(refuse="Invalid account")
    assert any(good is False and "Invalid account" in text for good, text in found())
    world.token_file.chmod(0o644)
    assert any(good is None and f"chmod 600 {world.token_file}" in text for good, text in found())
    world.slurm.set(away=True)
    assert next(good for good, _ in found()) is False


def invoked(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["slurm", *arguments])
    return result.exit_code, result.output


def test_the_command_says_what_is_wrong_with_what_it_was_given(world: World, tmp_path: Path) -> None:
    token = ["--token-file", str(world.token_file), "--home", str(tmp_path / "home")]
    for arguments, said in [
        ([world.server.url], "No file with the workers' token was given"),
        (["localhost:9520", *token], "http://"),
        ([world.server.url, *token, "--min", "3", "--max", "2"], "--min 3 is more than --max 2"),
        ([world.server.url, *token, "--idle", "soon"], "'soon' is not a duration"),
        ([world.server.url, *token, "--name", "a,b"], "cannot be the name of jobs"),
        ([world.server.url, *token, "--sbatch", "--array=1-2"], "one job for each worker"),
        ([world.server.url, *token, "--script", "/none"], "There is no job script /none"),
        (["http://127.0.0.1:1", *token, "--check"], "does not answer"),
    ]:
        status, output = invoked(*arguments)
        assert status == 1 and said in " ".join(output.split()), output
    status, output = invoked(world.server.url, *token, "--check", "--sbatch=--gres=gpu:1 -A proj")
    assert status == 0 and "Slurm takes the worker's job." in output
    assert world.slurm.calls("sbatch")[-1][:4] == ["--test-only", "--gres=gpu:1", "-A", "proj"]
    world.slurm.set(refuse="Invalid account")
    status, output = invoked(world.server.url, *token)
    assert status == 1 and "Slurm refuses the worker's job" in output
