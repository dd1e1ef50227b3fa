"""One step of a build: run a command, report what it does, and stop the build with its output if it fails.

Steps of several builds run at the same time, each in a thread of its own; `stop` ends them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class BuildFailed(Exception):
    """An environment could not be built. The message says which, why and what to do."""


_running: set[subprocess.Popen[str]] = set()
_stopped = threading.Event()


class Stopped(BuildFailed):
    """It was stopped, because another one failed or the user wants it."""


def report(line: str) -> None:
    clear = "\r\033[K" if sys.stderr.isatty() else ""  # of what a step shows while it runs
    print(f"{clear}{line}", file=sys.stderr, flush=True)


def stop() -> None:
    """End all steps that are running; no other begins until `resume` is called."""
    _stopped.set()
    for process in list(_running):
        process.kill()


def resume() -> None:
    """Have steps run again."""
    _stopped.clear()


def go_on() -> None:
    """Raises Stopped after `stop`."""
    if _stopped.is_set():
        raise Stopped


_AGAIN = "Then run the same command again."
_DOWNLOADING = "Check the network (or pip's settings for a proxy), then run the same command again: downloaded files are kept."
# By what pip or Python print; the first that is found is shown.
_ADVICE = (
    ("No space left on device", f"Free some space, or set BIOENGINE_ENVIRONMENTS to a folder on a larger disk. {_AGAIN}"),
    ("Disk quota exceeded", f"Free some of your quota, or set BIOENGINE_ENVIRONMENTS to a folder elsewhere. {_AGAIN}"),
    (
        "DO NOT MATCH THE HASHES",
        "A downloaded file is not the one that the lock file names, so it was not installed. Remove pip's own copies "
        f"(`pip cache purge`). {_AGAIN} If it fails again, the package index (PIP_INDEX_URL) has other files than the usual one.",
    ),
    (
        "ensurepip is not available",
        f"Install Python's venv module (Debian and Ubuntu: sudo apt install python{PYTHON_VERSION}-venv). {_AGAIN}",
    ),
    (
        "cannot open shared object file",
        f"The packages are installed, but the last line names a library of the system that is missing. Install it. {_AGAIN}",
    ),
)


def run(command: list[str], advice: str = _DOWNLOADING) -> None:
    """Run one build step. Its last line of output is shown while it runs, its whole output if it fails.

    `advice`: what to do if it fails for no reason that is known here. Raises BuildFailed, Stopped.
    """
    go_on()
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    _running.add(process)
    if _stopped.is_set():
        process.kill()
    output: list[str] = []
    try:
        for line in process.stdout:
            output.append(line)
            if sys.stderr.isatty():
                width = shutil.get_terminal_size().columns - 8
                print(f"\r\033[K      {line.strip()[:width]}", end="", file=sys.stderr, flush=True)
    except BaseException:
        process.kill()  # otherwise it would keep writing into a folder that is removed
        process.wait()
        raise
    finally:
        _running.discard(process)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if process.wait() != 0:
        go_on()
        text = "".join(output)
        known = (found for sign, found in _ADVICE if sign in text)
        raise BuildFailed(f"this step failed:\n  {' '.join(command)}\n{''.join(output[-30:])}\n{next(known, advice)}")
