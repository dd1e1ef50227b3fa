"""Run a process that a package may have taken over, and open what it has left.

It gets no terminal, and limited time; all processes that it has started end with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

_MAX_OUTPUT = 65_536  # bytes; of more output, the last part is kept
_LOOKED_AT_EVERY = 0.1  # seconds


class TookTooLong(Exception):
    """It was stopped after the time that it may take."""


class NotAFile(Exception):
    """A link, a pipe or a folder is where a file was expected."""


def run_hostile(
    command: list[str], variables: Mapping[str, str], seconds: float, watch: Callable[[int], None] = lambda pid: None
) -> tuple[int, str]:
    """The exit status, negative for a signal, and the end of what it wrote to stderr. Afterwards, all its processes have ended.

    Args:
        command, variables: the program and its environment.
        seconds: that it may take.
        watch: called every now and then with its pid; what it raises ends the process.

    Raises TookTooLong.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=variables,
        # In a session of its own: a process in this session could write input to this terminal.
        start_new_session=True,
    )
    assert process.stderr is not None
    end = time.monotonic() + seconds
    said = b""
    try:
        with process.stderr:
            poll = select.poll()
            poll.register(process.stderr, select.POLLIN)
            while process.poll() is None:
                if time.monotonic() > end:
                    raise TookTooLong
                watch(process.pid)
                if poll.poll(_LOOKED_AT_EVERY * 1000):
                    data = os.read(process.stderr.fileno(), _MAX_OUTPUT)
                    said = (said + data)[-_MAX_OUTPUT:]
                    if not data:  # all processes that had the pipe have closed it
                        time.sleep(_LOOKED_AT_EVERY)
            if poll.poll(0):
                said = (said + os.read(process.stderr.fileno(), _MAX_OUTPUT))[-_MAX_OUTPUT:]
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said.decode(errors="replace")


def open_left_file(file: Path) -> BinaryIO:
    """Open a file that it has written: a link is not followed, and a pipe not waited for. Raises NotAFile, FileNotFoundError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        raise NotAFile from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFile
    return open(descriptor, "rb")
