"""The ways to start the command line: as a module, bound to who started it, and as an installed command."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bioengine_contract.version import VERSION
from bioengine_server import bound, installed
from bioengine_server.installed import main, prepare


def started(monkeypatch: pytest.MonkeyPatch, program: Callable[[], object], *arguments: str) -> object:
    """The exit status of a program with these arguments."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as ended:
        program()
    return ended.value.code


def as_module() -> None:
    runpy.run_module("bioengine_server.__main__", run_name="__main__")


@pytest.mark.parametrize("program", [as_module, main])
def test_each_is_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: Callable[[], object]
) -> None:
    assert started(monkeypatch, program, "--version") == 0
    assert capsys.readouterr().out == f"bioengine {VERSION}\n"
    assert started(monkeypatch, program, "--help") == 0
    assert "Usage: bioengine" in capsys.readouterr().out


@pytest.mark.parametrize("program", [as_module, main])
def test_ctrl_c_while_it_is_imported_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[], object]
) -> None:
    class Interrupted:
        """Where the command line would be found, the user presses Ctrl-C."""

        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "bioengine_server.cli", Interrupted())
    assert started(monkeypatch, program) == 130


def test_one_that_is_bound_ends_when_its_input_does() -> None:
    """As `up` does: by SIGTERM to itself. Here a command that goes on until then."""
    program = "from bioengine_server import bound; import threading, time; threading.Thread(target=bound._end_with_input).start()"
    with subprocess.Popen([sys.executable, "-c", f"{program}; time.sleep(60)"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"words that mean nothing")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.stdin.close()
        assert process.wait(10) == -signal.SIGTERM


def test_what_is_said_to_one_that_is_bound_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever holds the pipe never has to wait; then comes the signal, once."""
    reading, writing = os.pipe()
    signals: list[tuple[int, int]] = []
    with os.fdopen(reading) as input, os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", input)
        monkeypatch.setattr(os, "kill", lambda *told: signals.append(told))
        thread = threading.Thread(target=bound._end_with_input)
        thread.start()
        for _ in range(50):
            pipe.write(bytes(4096))  # more than a pipe holds
        assert signals == []
        pipe.close()
        thread.join(10)
    assert signals == [(os.getpid(), signal.SIGTERM)]


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project whose machine is fine and whose environments are built at once; it says with which arguments."""
    folder = tmp_path / "deploy"
    folder.mkdir()
    (folder / "machine.py").write_text("")
    told = f"open({str(tmp_path / 'told')!r}, 'w').write(' '.join(sys.argv[1:]))"
    (folder / "environments.py").write_text(f"import sys\n{told}\nprint({str(tmp_path / 'environments')!r})\n")
    monkeypatch.setattr(installed, "PROJECT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("BIOENGINE_ENVIRONMENTS", "BIOENGINE_PYTHON"):
        monkeypatch.setenv(name, "before")
    return folder


def test_an_installed_command_builds_what_it_lacks_and_finds_it(deploy: Path, tmp_path: Path) -> None:
    packages = tmp_path / "environments" / "server" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    prepare(["up", "--port", "9520"])
    assert (tmp_path / "told").read_text() == "server runner triton -- up --port 9520"
    assert os.environ["BIOENGINE_ENVIRONMENTS"] == str(tmp_path / "environments")
    assert os.environ["BIOENGINE_PYTHON"] == sys.executable
    assert sys.path[-1] == str(packages), "behind its own packages"


def test_a_machine_that_lacks_something_is_told_before_anything_is_built(deploy: Path, tmp_path: Path) -> None:
    (deploy / "machine.py").write_text("print('Python 3.11 is missing.'); raise SystemExit(1)")
    with pytest.raises(SystemExit) as ended:
        prepare(["up"])
    assert ended.value.code == "bioengine: Python 3.11 is missing."
    assert not (tmp_path / "told").exists()


def test_environments_that_cannot_be_built_end_it(
    monkeypatch: pytest.MonkeyPatch, deploy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (deploy / "environments.py").write_text("import sys; print('no network', file=sys.stderr); sys.exit(4)")
    started_at = time.monotonic()
    assert started(monkeypatch, main, "up") == 4
    assert time.monotonic() - started_at < 30 and capfd.readouterr().err == "no network\n"
