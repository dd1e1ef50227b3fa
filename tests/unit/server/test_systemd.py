"""BioEngine as a service of systemd: what the units say, what systemd makes of them, and what the server tells it."""

from __future__ import annotations

import asyncio
import configparser
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bioengine_server import service_manager
from bioengine_server.service_manager import READY, notify, tell_status
from bioengine_server.settings_files import read_settings_files

from tests.stack.harness import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = {"system": FOLDER / "bioengine.service", "user": FOLDER / "user" / "bioengine.service"}


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@bioengine-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(5)
        yield listener


def test_it_is_told_a_state(manager: socket.socket) -> None:
    notify(READY, "STATUS=well")
    assert manager.recv(1000) == b"READY=1\nSTATUS=well"


async def test_it_is_told_each_change_of_readiness_once(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_manager, "_INTERVAL", 0.01)
    reasons = iter(["it starts", "it starts", None, None, "the disk\nis full"])
    task = asyncio.create_task(tell_status(lambda: next(reasons, "the disk\nis full")))
    await asyncio.sleep(0.2)
    task.cancel()
    told = [manager.recv(1000).decode() for _ in range(3)]
    assert told == ["STATUS=Not ready: it starts", "STATUS=Ready", "STATUS=Not ready: the disk is full"]
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


@pytest.mark.parametrize("address", [None, "", "relative", "/nobody/listens/here", "@nobody-listens-here"])
def test_elsewhere_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify(READY)


def sections(unit: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser


@pytest.mark.parametrize("kind", UNITS)
def test_the_unit_has_what_the_server_needs(kind: str) -> None:
    service = sections(UNITS[kind])["Service"]
    assert service["Type"] == "notify" and service["ExecStart"].endswith("bioengine up") and service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue", "else one model that is too large ends them all"
    assert service["UMask"] == "0077" and int(service["TimeoutStopSec"].removesuffix("s")) > 10, "a stop takes up to 9 s"
    # Frameworks write machine code; GPUs are devices; models compute under Landlock and seccomp filters of their own.
    assert not {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateUsers"} & {*service}
    assert "@sandbox" not in service.get("SystemCallFilter", "~") and service.get("SystemCallFilter", "~").startswith("~")


def test_the_settings_of_the_service_are_in_its_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(shutil.copy(FOLDER / "bioengine.env", tmp_path))
    file.chmod(0o644)
    monkeypatch.setenv("BIOENGINE_SETTINGS", str(file))
    found = read_settings_files()
    service = sections(UNITS["system"])["Service"]
    assert found.get("BIOENGINE_HOME") == f"/var/lib/{service['StateDirectory']}"
    for name in ("BIOENGINE_RUN_DIR", "BIOENGINE_ENVIRONMENTS"):
        assert (found.get(name) or "").startswith(f"/var/cache/{service['CacheDirectory']}/")


def analyze(unit: Path, folder: Path, *arguments: str) -> str:
    """What systemd-analyze says of a unit, whose programs are here at other paths."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    text = unit.read_text(encoding="utf-8").replace("/usr/bin/nvidia-modprobe", "/bin/true")
    for program in ("/opt/bioengine/bioengine up", "%h/bioengine/bioengine up"):
        text = text.replace(program, f"{ROOT}/bioengine up")
    copy = folder / unit.name
    copy.write_text(text)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "SYSTEMD_COLORS": "0"}
    done = subprocess.run(["systemd-analyze", *arguments, str(copy)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", UNITS)
def test_systemd_takes_the_unit(kind: str, tmp_path: Path) -> None:
    said = analyze(UNITS[kind], tmp_path, f"--{kind}", "verify", "--man=no")
    assert UNITS[kind].name not in said, said


def test_systemd_finds_the_service_well_confined(tmp_path: Path) -> None:
    said = analyze(UNITS["system"], tmp_path, "security", "--offline=true", "--threshold=25", "--no-pager")
    assert "Overall exposure level" in said
