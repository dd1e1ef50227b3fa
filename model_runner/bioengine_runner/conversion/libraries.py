"""Import the libraries of a conversion's step. Some try to start a program or to open a socket, which the sandbox forbids."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from types import ModuleType
from typing import Any

# Python's audit events for what the system call filter of `confinement.alone` ends the process for. They come before the system
# call, and an error that is raised at one prevents it.
_LOOKS = ("subprocess.Popen", "socket.__new__")


def import_step(name: str) -> ModuleType:
    """Import a module with its libraries, before any code of the package runs.

    NumPy's tests (`lscpu`), which SciPy imports, and Python's own `platform` (`uname`) and urllib3 (a socket for IPv6), which
    TensorFlow and CAREamics import, try a program or a socket, and go on without it if that raises an error. Here it does.
    After this function has returned, such an attempt ends the process. Libraries that only code of the package would import are
    imported here by the module's `import_libraries`, if it has one.
    """
    importing = True

    def refuse(event: str, _: tuple[Any, ...]) -> None:
        if importing and event in _LOOKS:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    sys.addaudithook(refuse)
    try:
        importlib.import_module("numpy.testing")
        from bioengine_runner.lean_import import lean_import_of_core

        with lean_import_of_core():
            step = importlib.import_module(name)
        getattr(step, "import_libraries", lambda: None)()
        return step
    finally:
        importing = False
