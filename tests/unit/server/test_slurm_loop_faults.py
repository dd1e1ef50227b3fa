"""What can go wrong with the loop for Slurm: each is one sentence, and the loop goes on where that makes sense; on fakes."""

from __future__ import annotations

import json
import threading
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
from bioengine_server.slurm.loop import only_loop
from bioengine_server.slurm.server import Server
from typer.testing import CliRunner

from tests.unit.server.slurm_world import TOKEN, World, world

__all__ = ["world"]


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
