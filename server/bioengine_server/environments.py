"""The environments besides the server's own: where they are, and how to build them (`deploy/environments.py`)."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

from bioengine_server.project import PROJECT

OPTIONAL = {
    "convert": "converts PyTorch models (state dicts) to ONNX when they are stored",
    "careamics": "converts PyTorch models whose network is of the library CAREamics, beside `convert`",
    "labels": "finds objects with StarDist and Cellpose, and runs the apps",
    "tensorflow": "converts TensorFlow and Keras models to ONNX when they are stored (1.2 GB; can be removed afterwards)",
}
"""Environments that are built only when the admin adds them (`./bioengine environments add NAME`), and what each is for."""

_PROGRAM = PROJECT / "deploy" / "environments.py"
_STAMP = "built"  # written by `deploy/layout.py`; the environments in an image have none
_ATTEMPTS = 10

_in_use: dict[Path, int] = {}
"""Open files, whose locks are held as long as this process lives."""


def build_environments(*names: str, renew: bool = False) -> bool:
    """Build missing environments, and with `renew` those that are out of date. Returns whether all exist now.

    The program reports its progress on stderr.
    """
    python = os.environ.get("BIOENGINE_PYTHON", sys.executable)
    command = [python, "-I", str(_PROGRAM), *(["--renew"] if renew else []), *names]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def remove_environment(name: str) -> bool:
    """Remove an optional environment. Returns whether it is gone; a process that uses it keeps its files until it ends."""
    python = os.environ.get("BIOENGINE_PYTHON", sys.executable)
    return subprocess.run([python, "-I", str(_PROGRAM), "--remove", name], stdout=subprocess.DEVNULL).returncode == 0


def can_build() -> bool:
    """Whether environments can be built here: in a checkout or an installed package, but not in an image."""
    return _PROGRAM.is_file()


def is_there(folder: Path, name: str) -> bool:
    """Whether this environment is in the folder of environments."""
    return (folder / name / "bin" / "python").exists()


def built_for(folder: Path, name: str) -> str:
    """The device that an environment was built for, `cpu` or `cuda`; empty if it is not known."""
    try:
        return str(json.loads((folder / name / _STAMP).read_text())["built for"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def environment(folder: Path, name: str) -> Path:
    """The folder of an environment, which is not changed, moved or removed as long as this process lives.

    Args:
        folder: the folder of all environments. `name` in it is a link, which is moved when a newer environment is built.
        name: `server`, `runner`, `triton`, ...
    """
    link = folder / name
    for _ in range(_ATTEMPTS):
        found = folder / os.readlink(link) if link.is_symlink() else link
        if keep(found):
            return found
    return link


def keep(found: Path) -> bool:
    """Lock this environment against removal while this process lives. Returns False if it is already being removed."""
    if found in _in_use:
        return True
    try:
        descriptor = os.open(found / _STAMP, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return found.exists()  # in an image, or of the first layout, in which environments were not replaced
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        pass  # a file system without locks
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return False
    _in_use[found] = descriptor
    return True
