"""Confinement on older kernels, where Triton listens on TCP, and as the setting says. Kernels are played down, not up: this one's
Landlock is asked for no more than an older one has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from bioengine_server.doctor.protection import confinement
from bioengine_server.doctor.setup import Setup
from bioengine_server.settings import Settings

from tests.stack.harness import ENVIRONMENTS, Stack, free_port, get, python

TRIES = """
import errno, os, socket, sys
def tried(what):
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def connected(*address):
    with socket.socket() as one:
        one.connect(address)
def bound(port):
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))
"""


def confined(
    tmp_path: Path, *tries: str, version: int | None = None, seccomp: bool = True, ports: tuple[int, ...] = ()
) -> list[str]:
    """What a process gets that may read Python and write `tmp_path`: what confines it, and the outcome of each try."""
    code = [
        TRIES,
        "from pathlib import Path",
        "from bioengine_runner.confinement import confine, landlock, reach, seccomp",
        "" if version is None else f"landlock.version = lambda: {version}",
        "" if seccomp else "seccomp.is_available = lambda: False",
        f"by = confine(reach.of_package_test(Path('/usr/share'), Path({str(tmp_path)!r})), {ports})",
        "print(by, '; '.join(by.lacks), sep='|')",
        *(f"print(tried(lambda: {each}))" for each in tries),
    ]
    answer = subprocess.run([python("runner"), "-c", "\n".join(code)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_files_and_network_are_closed_on_every_kernel_with_landlock(tmp_path: Path, version: int) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.write_text("secret")
    tries = (
        f"open({str(other)!r})",
        f"os.open({str(other)!r}, os.O_TRUNC)",
        f"os.truncate({str(other)!r}, 0)",
        "connected('127.0.0.1', 9)",
    )
    by, *outcomes = confined(own, f"open({str(own / 'file')!r}, 'w')", f"os.kill({os.getpid()}, 0)", *tries, version=version)
    has_scopes = version >= 6
    assert by.startswith(f"Landlock {version} and seccomp|") and bool(by.partition("|")[2]) != has_scopes
    assert outcomes == ["done", "EPERM" if has_scopes else "done", "EACCES", "EPERM", "EPERM", "EACCES"]
    assert other.read_text() == "secret"


def test_without_landlock_the_rest_holds_and_what_is_missing_is_told(tmp_path: Path) -> None:
    by, *outcomes = confined(tmp_path, "open('/etc/hostname')", "connected('127.0.0.1', 9)", version=0)
    assert by == "seccomp|read and write all files of the user who started the server (no Landlock)"
    assert outcomes == ["done", "EACCES"]
    by, *outcomes = confined(tmp_path, "open('/etc/hostname')", "connected('127.0.0.1', 9)", seccomp=False)
    assert "no seccomp filter" in by
    assert outcomes == ["EACCES", "EACCES"], "Landlock knows connections by TCP, too"


def test_where_triton_listens_on_tcp_it_has_its_ports_and_no_more(tmp_path: Path) -> None:
    own, other = free_port(), free_port()
    tries = (f"bound({own})", f"bound({other})", f"connected('127.0.0.1', {own})", "socket.socket(type=socket.SOCK_DGRAM)")
    _, *outcomes = confined(tmp_path, *tries, ports=(own,))
    assert outcomes == ["done", "EACCES", "EACCES", "EACCES"]


@pytest.mark.parametrize(
    ("options", "version", "said", "outcome"),
    [
        ("auto", None, "Confined by Landlock", "EACCES"),
        ("auto", 0, "Models can still read and write all files of the user", "done"),
        ("off", None, "Not confined: models can do what the user who started the server can", "done"),
        ("require", 0, "BIOENGINE_CONFINE=require, but on this machine models can still read", None),
    ],
)
def test_the_setting_decides(options: str, version: int | None, said: str, outcome: str | None) -> None:
    code = [
        TRIES,
        "from bioengine_runner.confinement import landlock, reach, start",
        "" if version is None else f"landlock.version = lambda: {version}",
        f"start.confine_as_set({options!r}, reach.of_python())",
        "print(tried(lambda: open('/etc/hostname')))",
    ]
    answer = subprocess.run([python("runner"), "-c", "\n".join(code)], capture_output=True, text=True)
    assert said in answer.stdout + answer.stderr
    if outcome is None:
        assert answer.returncode != 0
    else:
        assert answer.stdout.splitlines()[-1] == outcome


@pytest.mark.extended
def test_a_stack_with_triton_on_a_port_is_confined_too(tmp_path: Path) -> None:
    """Its log and the doctor say so; where it is switched off, they say that."""
    port = free_port()
    home = tmp_path / "home"
    with Stack(home, BIOENGINE_TRITON_PORT=str(port)) as stack:
        assert get(f"http://127.0.0.1:{port}/v2")[1]["name"] == "triton"
        assert "Confined by Landlock" in (stack.settings.node_folder / "triton.log").read_text()
        (here,) = found(home)
        assert here.startswith("ok: the kernel has Landlock") and "neither the user's files nor the network" in here
    with Stack(home, BIOENGINE_CONFINE="off") as stack:
        assert "Not confined" in (stack.settings.node_folder / "triton.log").read_text()
        assert found(home, confine="off") == ["note: switched off by BIOENGINE_CONFINE=off"]
        running = f"the Triton that runs now (process {stack.triton().pid}) is not confined"
        assert found(home)[1] == f"problem: {running}", "what a restart would do is not what there is"


def found(home: Path, **settings: str) -> list[str]:
    """What the doctor says of confinement."""
    setup = Setup(Settings(home=home, environments=ENVIRONMENTS, **settings), {})  # type: ignore[arg-type]
    return [f"{finding.verdict}: {finding.found}" for finding in confinement(setup)]
