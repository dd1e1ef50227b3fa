"""What a worker does before it joins: its name, a home of its own on its machine, and what keeps it from working."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bioengine_server.commands import workers as command
from bioengine_server.errors import StackError
from bioengine_server.hypha.errors import WeakSecret
from bioengine_server.hypha.secrets import new_secret, worker_secret
from bioengine_server.lifecycle import own_home, stop_on_signals, sweep_dead
from bioengine_server.settings import Settings
from bioengine_server.worker_side import name, run
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("host", "job", "expected"),
    [
        ("gpu-2.lab.example", "", "gpu-2"),
        ("gpu-2", "4711", "gpu-2-4711"),
        ("Grüne Box!", "", "Gr-ne-Box"),
        ("…", "", "worker"),
        ("n" * 80, "12", f"{'n' * 57}-12"),
    ],
)
def test_a_worker_is_called_as_its_machine(monkeypatch: pytest.MonkeyPatch, host: str, job: str, expected: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    assert name.name_of(Settings()) == expected and Settings(worker_name=expected).worker_name == expected
    assert name.name_of(Settings(worker_name="mine")) == "mine"


async def test_a_second_sigterm_changes_nothing_for_what_finishes_its_work() -> None:
    loop = asyncio.get_running_loop()
    try:
        stop = stop_on_signals(patience=None)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 10)
        os.kill(os.getpid(), signal.SIGTERM)  # would end this process at once
        await asyncio.sleep(0.05)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@pytest.mark.parametrize("wrong", ["two words", "../up", "a/b", "-x", "n" * 61, "ü"])
def test_names_that_no_worker_has(wrong: str) -> None:
    with pytest.raises(ValidationError, match="gpu-box-2"):
        Settings(worker_name=wrong)


def test_two_workers_on_one_machine_share_nothing(tmp_path: Path) -> None:
    with run.home_for(Settings(home=tmp_path)) as first, run.home_for(Settings(home=tmp_path)) as second:
        for one, other in zip(_own_of(first), _own_of(second), strict=True):
            assert one != other
    with run.home_for(Settings(home=tmp_path)) as again:
        assert again.home == first.home, "the models that it has copied are found again"


def _own_of(settings: Settings) -> list[object]:
    return [
        settings.home,
        settings.store,
        settings.node_folder,
        settings.shm_prefix,
        settings.triton_sockets,
        settings.tensor_folder,
    ]


def test_a_shared_store_is_used_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    with run.home_for(Settings(home=tmp_path / "home", store=shared)) as settings:
        assert settings.store == shared and run._problem_of(settings) == ""
    missing = Settings(home=tmp_path / "home", store=tmp_path / "nowhere")
    assert "BIOENGINE_STORE" in run._problem_of(missing)


def test_a_store_that_cannot_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.home_for(Settings(home=tmp_path)) as settings:
        assert run._problem_of(settings) == ""
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        assert "BIOENGINE_HOME" in run._problem_of(settings)


def test_a_card_that_is_asked_for_and_not_there_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command._lack_of_card(Settings(accelerator="auto")) == ""
    assert "BIOENGINE_ACCELERATOR=cuda, but NVIDIA's driver is not installed" in command._lack_of_card(
        Settings(accelerator="cuda")
    )


def test_the_secret_of_server_and_workers_is_as_good_as_others(tmp_path: Path) -> None:
    file = tmp_path / "worker.token"
    assert worker_secret(Settings()) == ""
    with pytest.raises(StackError, match="cannot be read"):
        worker_secret(Settings(worker_token_file=file))
    file.write_text("too short\n")
    file.chmod(0o600)
    with pytest.raises(WeakSecret, match="too short"):
        worker_secret(Settings(worker_token_file=file))
    secret = new_secret()
    file.write_text(f"{secret}\n")
    assert worker_secret(Settings(worker_token_file=file)) == secret
    file.chmod(0o644)
    with pytest.raises(StackError, match="chmod 600"):
        worker_secret(Settings(worker_token_file=file))


def test_what_a_killed_one_has_left_is_swept_and_what_lives_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among many that have left nothing: processes are not looked through for each of them."""
    looks = Counter[str]()
    look = psutil.process_iter

    def counted(attributes: list[str]) -> Iterator[psutil.Process]:
        looks["all"] += 1
        return look(attributes)

    monkeypatch.setattr(psutil, "process_iter", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for number in range(50):
        (tmp_path / "temporary" / f"bioengine-of-another-{number}").mkdir(parents=True)
        (tmp_path / "temporary" / f"bioengine-of-another-{number}" / "owner").touch()
    dead, alive = Settings(home=tmp_path / "dead"), Settings(home=tmp_path / "alive")
    with own_home(dead):
        pass
    left, kept = Path("/dev/shm") / f"{dead.shm_prefix}segment", Path("/dev/shm") / f"{alive.shm_prefix}segment"
    try:
        with own_home(alive):
            left.write_bytes(b"x")
            kept.write_bytes(b"x")
            sweep_dead()
            assert kept.exists() and not left.exists()
            assert looks["all"] < 10
    finally:
        kept.unlink(missing_ok=True)
        left.unlink(missing_ok=True)
