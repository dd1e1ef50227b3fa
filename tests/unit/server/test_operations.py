"""What a server needs to go on for weeks: whole files, room, parts that are there, a run dir that does not age, a quiet log."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.errors import HomeInUse, StackError
from bioengine_server.fresh import locked, touch
from bioengine_server.lifecycle import own_home
from bioengine_server.log_format import LogFormatter
from bioengine_server.parts import what_is_missing
from bioengine_server.room import lack_of_room
from bioengine_server.settings import Settings
from bioengine_server.triton.plain_names import PlainNames
from bioengine_server.vanished import VanishedClients
from bioengine_server.whole_file import whole_file

from tests.stack.harness import ENVIRONMENTS


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No byte can be written to a file, as on a disk that is full; nor to the file that pytest's own output may go to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for content in (b"one", b"two"):
        with whole_file(file, 0o600) as stream:
            stream.write(content)
        assert file.read_bytes() == content and file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError), whole_file(file) as stream:
        stream.write(b"half of")
        raise ValueError
    with pytest.raises(FileExistsError), whole_file(file, replace=False) as stream:
        stream.write(b"another")
    assert file.read_bytes() == b"two" and os.listdir(tmp_path) == ["file"]


def test_a_token_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with no_room(), pytest.raises(StackError, match=r"tokens\.json cannot be written"):
        TokenRegistry(tmp_path).create("ada", days=1)
    assert os.listdir(tmp_path) == [".tokens.lock"]


def test_a_lack_of_room_is_told(tmp_path: Path) -> None:
    assert lack_of_room(tmp_path, 1) is None
    assert "is full (" in (lack_of_room(tmp_path, 1 << 60) or "")


@pytest.fixture
def running(tmp_path: Path) -> Settings:
    """The settings of a server whose folders are as Triton's start leaves them."""
    settings = Settings(home=tmp_path / "home", run_dir=tmp_path / "run", environments=tmp_path / "environments")
    settings.store.mkdir(parents=True)
    (tmp_path / "environments").mkdir()
    for name in ("runner", "triton"):
        (tmp_path / "environments" / name).symlink_to(ENVIRONMENTS / name)
    boot = tmp_path / "run" / "boot-1"
    for folder in ("models", "locks", "empty", "home", "tmp", "processes", "runner/bioengine-model-runner"):
        (boot / folder).mkdir(parents=True)
    (boot / "runner/bioengine-model-runner/config.pbtxt").touch()
    return settings


@pytest.mark.parametrize(
    "part, told",
    [
        ("home/models", "the model store in the home (BIOENGINE_HOME) was removed"),
        ("run", "the run dir (BIOENGINE_RUN_DIR) was removed"),
        ("run/boot-1", "the run dir (BIOENGINE_RUN_DIR) lacks models"),
        ("run/boot-1/processes", "lacks processes"),
        ("environments/runner", "the environment 'runner' (BIOENGINE_ENVIRONMENTS) lacks bin/python"),
        ("environments/triton", "the environment 'triton' (BIOENGINE_ENVIRONMENTS) lacks bin/tritonserver"),
    ],
)
def test_a_part_that_is_missing_is_told_until_it_is_back(running: Settings, tmp_path: Path, part: str, told: str) -> None:
    names = PlainNames(tmp_path / "names")
    assert what_is_missing(running, names) is None
    (tmp_path / part).rename(tmp_path / "aside")
    reason = what_is_missing(running, names)
    assert reason is not None and told in reason and str(tmp_path) not in reason
    (tmp_path / "aside").rename(tmp_path / part)
    assert what_is_missing(running, names) is None


def test_links_that_lead_nowhere_are_told_and_what_a_stranger_has_made_is_not_looked_at(
    running: Settings, tmp_path: Path
) -> None:
    stranger = tmp_path / "names-stranger"
    stranger.mkdir()
    (stranger / "dangling").symlink_to("/not there")
    names, folder = PlainNames(tmp_path / "names"), tmp_path / "a b"
    folder.mkdir()
    assert what_is_missing(running, names) is None
    names.of(folder, "store")
    assert what_is_missing(running, names) is None
    folder.rename(tmp_path / "aside")
    assert "are broken" in (what_is_missing(running, names) or "")
    (tmp_path / "aside").rename(folder)
    assert names.folder is not None
    names.folder.rename(tmp_path / "aside")
    assert "are broken" in (what_is_missing(running, names) or ""), "all of them are gone"


def test_what_is_used_does_not_look_old_and_links_are_left_alone(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    deep = folder / "boot-1" / "models" / "otter" / "1"
    deep.mkdir(parents=True)
    outside.mkdir()
    for file in (deep / "model.py", folder / "owner", outside / "file"):
        file.touch()
    (folder / "link").symlink_to(outside)
    long_ago = time.time() - 40 * 86400
    for path in (folder, *folder.rglob("*"), outside, outside / "file"):
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    touch(folder)
    for path in (folder, *folder.rglob("*")):
        assert path.lstat().st_atime > long_ago + 1000 and path.lstat().st_mtime > long_ago + 1000, path
    assert outside.stat().st_mtime == pytest.approx(long_ago) == (outside / "file").stat().st_mtime
    touch(tmp_path / "not there")


def test_systemd_finds_a_lock_on_the_run_dir(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with locked(tmp_path), pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def formatted(name: str, message: str, with_tracebacks: bool = False) -> str:
    try:
        raise ConnectionResetError("the client\nhas gone")
    except ConnectionResetError:
        record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, ("x",), sys.exc_info())
    return LogFormatter("%(name)s: %(message)s", "bioengine_server", with_tracebacks).format(record)


def test_exceptions_of_libraries_are_one_line() -> None:
    assert formatted("hypha.http", "failed: %s") == "hypha.http: failed: x (ConnectionResetError: the client)"
    hyphas = "Error calling %s\nTraceback (most recent call last):\n  File\nValueError: no"
    assert formatted("hypha", hyphas) == "hypha: Error calling x (ValueError: no) (ConnectionResetError: the client)"
    for text in (formatted("bioengine_server.stack", "failed: %s"), formatted("hypha", "failed: %s", with_tracebacks=True)):
        assert "\n  Traceback (most recent call last):" in text


@pytest.mark.parametrize(
    "error, is_dropped",
    [
        (Exception("Failed to send the request when calling method (ws-user/x:1.progress), error: no"), True),
        (ConnectionResetError(), True),
        (ValueError("a fault of ours"), False),
    ],
)
def test_calls_of_vanished_clients_are_not_logged(error: Exception, is_dropped: bool) -> None:
    exception = (type(error), error, None)
    record = logging.LogRecord("asyncio", logging.ERROR, "", 1, "Future exception was never retrieved", (), exception)
    assert VanishedClients().filter(record) is not is_dropped
    record.name = "bioengine_server.stack"
    assert VanishedClients().filter(record)


def test_ctrl_c_during_the_imports_shows_no_traceback() -> None:
    program = (
        "import sys, runpy\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'bioengine_server.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "runpy.run_module('bioengine_server')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("run_dir", ["first", "second"])
def test_a_home_is_held_whatever_run_dir_another_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str) -> None:
    """They would end each other's Triton, which has its name from the home."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
    first = Settings(home=tmp_path / "home", run_dir=tmp_path / "first")
    with own_home(first):
        with pytest.raises(HomeInUse, match=str(os.getpid())), own_home(Settings(home=first.home, run_dir=tmp_path / run_dir)):
            pass
        with own_home(Settings(home=tmp_path / "another", run_dir=tmp_path / "another run")):
            pass
