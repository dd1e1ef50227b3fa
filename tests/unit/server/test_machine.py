"""What `./bioengine` and the installed command look at before anything is built."""

from __future__ import annotations

import builtins
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "deploy" / "machine.py"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(PROGRAM.parent), *sys.path])
    import machine  # type: ignore[import-not-found]

    module: ModuleType = machine
    return module


def bioengine(python: Path) -> str:
    """What `./bioengine` says with this Python alone."""
    environment = {**os.environ, "BIOENGINE_PYTHON": str(python)}
    done = subprocess.run([str(ROOT / "bioengine"), "--version"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def program(path: Path, code: str) -> Path:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


def test_nothing_is_missing_here() -> None:
    done = subprocess.run([sys.executable, "-I", str(PROGRAM)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_system_or_version_is_named(machine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.what_is_missing() is None
    monkeypatch.setattr(machine, "SUITABLE", ((3, 99),))
    assert "BioEngine needs 3.11 or 3.12" in machine.what_is_missing()
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert "this is Linux on arm64" in machine.what_is_missing()


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_that_cannot_make_environments_is_told_what_to_install(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """As Debian's without the package python3.x-venv."""
    whole = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == module:
            raise ImportError(name)
        return whole(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert f"sudo apt install python{machine.VERSION}-venv" in machine.what_is_missing()


def test_a_python_without_its_shared_library_is_told_what_to_install(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(machine.ctypes, "CDLL", fails)
    assert f"sudo apt install libpython{machine.VERSION}" in machine.what_is_missing()


def test_the_executable_tells_what_each_python_lacks(tmp_path: Path) -> None:
    told = bioengine(program(tmp_path / "python", "echo 'it has no venv module'; exit 1"))
    assert told == "bioengine: needs Python 3.11 or 3.12 with its venv module and libpython.\n  it has no venv module\n"
    for code in ("exit 2", "exit 127"):  # another version, and one that does not start
        assert "Neither was found. Install one:  sudo apt install" in bioengine(program(tmp_path / "other", code))
