"""What the process of a model has logged last, for the error of a load that its process did not live through.

Each model's process writes its log to Triton's and to a small file of its own, `processes/log/<Triton model>`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from bioengine_runner.rundir import Boot

_LINES = 2
_MAX_LENGTH = 300  # characters
_MAX_READ = 4096  # bytes
_PATH = re.compile(r"(?:/[^\s/:,;'\"]+){2,}")


def keep(boot: Boot, name: str) -> None:
    """Have what this process logs from now on be found under the name of its Triton model, too."""
    with contextlib.suppress(OSError):  # a full disk is said where it matters
        file = _file(boot, name)
        file.parent.mkdir(exist_ok=True)
        handler = logging.FileHandler(file, mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger().addHandler(handler)


def last_lines(boot: Boot, name: str) -> str:
    """What the process of a model has logged last, without paths of this machine; empty where there is nothing."""
    try:
        # Models write in these folders: a link of theirs is not followed, and a pipe not waited for.
        descriptor = os.open(_file(boot, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _MAX_READ))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    printable = "".join(char if char.isprintable() else " " for char in " | ".join(lines[-_LINES:]))
    return _PATH.sub("…", printable)[-_MAX_LENGTH:]


def _file(boot: Boot, name: str) -> Path:
    return boot.processes / "log" / name
