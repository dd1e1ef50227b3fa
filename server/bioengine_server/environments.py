"""The environments beside the server's own: where they are, and having them built (`deploy/environments.py`)."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

from bioengine_server.project import PROJECT

_PROGRAM = PROJECT / "deploy" / "environments.py"
_STAMP = "built"  # of `deploy/layout.py`; no environment of an image has one
_ATTEMPTS = 10

_in_use: dict[Path, int] = {}
"""Open files, whose locks last as long as this process."""


def build_environments(*names: str, renew: bool = False) -> bool:
    """Build those that are missing, and with `renew` those that are out of date; whether all are there now.

    The program itself says what it does, on stderr.
    """
    python = os.environ.get("BIOENGINE_PYTHON", sys.executable)
    command = [python, "-I", str(_PROGRAM), *(["--renew"] if renew else []), *names]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def can_build() -> bool:
    """Whether this is a checkout or an installed package; an image has its environments as they are."""
    return _PROGRAM.is_file()


def built_for(folder: Path, name: str) -> str:
    """What an environment was built for, `cpu` or `cuda`; empty where nothing says so."""
    try:
        return str(json.loads((folder / name / _STAMP).read_text())["built for"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def environment(folder: Path, name: str) -> Path:
    """The folder of an environment, which stays as it is, and where it is, for as long as this process lives.

    Args:
        folder: of all environments. `name` in it is a link, which means another folder once a newer one is built.
        name: `server`, `runner`, `triton`, ...
    """
    link = folder / name
    for _ in range(_ATTEMPTS):
        found = folder / os.readlink(link) if link.is_symlink() else link
        if keep(found):
            return found
    return link


def keep(found: Path) -> bool:
    """Have nobody remove this environment while this process lives; False: it is being removed."""
    if found in _in_use:
        return True
    try:
        descriptor = os.open(found / _STAMP, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return found.exists()  # of an image, or of a layout that replaced nothing
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
