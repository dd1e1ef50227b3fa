"""One step of a build: run a command, report what it does, and stop the build with its output if it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class BuildFailed(Exception):
    """An environment could not be built. The message says which, why and what to do."""


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(command: list[str]) -> None:
    """Run one build step. Its last line of output is shown while it runs, its whole output if it fails."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
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
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if process.wait() != 0:
        raise BuildFailed(
            f"this step failed:\n  {' '.join(command)}\n{''.join(output[-30:])}\n"
            "Check the network (or the proxy settings of pip), then run the same command again: downloaded files are kept."
        )
