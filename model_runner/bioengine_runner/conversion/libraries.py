"""The libraries of a step, which look around when they are imported."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from types import ModuleType
from typing import Any

# What the filter of `confinement.alone` would end the process for. Python announces it first, and an error then prevents it.
_LOOKS = ("subprocess.Popen", "socket.__new__")


def import_step(name: str) -> ModuleType:
    """Import a module with its libraries, before any code of the package runs.

    NumPy (`lscpu`), Python's own `platform` (`uname`) and urllib3 (a socket for IPv6), which TensorFlow imports, try a
    program or a socket, and go on without if there is an error. They get one. Afterwards, the same ends the process.
    """
    importing = True

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if importing and event in _LOOKS:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    sys.addaudithook(refuse)
    try:
        return importlib.import_module(name)
    finally:
        importing = False
