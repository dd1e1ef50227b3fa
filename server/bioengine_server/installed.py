"""`bioengine`, the command of an installed package: what the executable `./bioengine` does in a checkout.

The server runs in the environment that it was installed into. The model runner's environment and Triton are built on first use,
by the same program and lock files as in a checkout. So is one with imjoy-rpc, which pip cannot install beside Hypha.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bioengine_server.environments import environment
from bioengine_server.project import PROJECT

_NEED_NOTHING = {"--help", "-h", "--version"}


def main() -> None:
    try:
        if sys.argv[1:] and not _NEED_NOTHING & set(sys.argv[1:]):
            prepare(sys.argv[1:])
        from bioengine_server.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    app(prog_name="bioengine")


def prepare(arguments: list[str]) -> None:
    """Build the environments for the command `bioengine ARGUMENTS`; ends the process if that fails."""
    deploy = PROJECT / "deploy"
    lack = subprocess.run([sys.executable, "-I", str(deploy / "machine.py")], stdout=subprocess.PIPE, text=True)
    if lack.returncode:
        sys.exit(f"bioengine: {lack.stdout.strip()}")
    names = ("server", "runner", "triton")
    command = [sys.executable, "-I", str(deploy / "environments.py"), *names, "--", *arguments]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        sys.exit(built.returncode)
    folder = Path(built.stdout.strip())
    os.environ |= {"BIOENGINE_ENVIRONMENTS": str(folder), "BIOENGINE_PYTHON": sys.executable}
    # At the end of the path, so that packages of this environment itself come first.
    sys.path += map(str, environment(folder, "server").glob("lib/python3.*/site-packages"))
