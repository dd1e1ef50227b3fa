"""Have the environments that a command needs beside its own: `deploy/environments.py` builds what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = Path(__file__).resolve().parents[2] / "deploy" / "environments.py"


def build_environments(*names: str) -> bool:
    """Build those that are missing or out of date; whether all are there now. The program itself says what it does, on stderr."""
    python = os.environ.get("BIOENGINE_PYTHON", sys.executable)
    return subprocess.run([python, "-I", str(_PROGRAM), *names], stdout=subprocess.DEVNULL).returncode == 0
