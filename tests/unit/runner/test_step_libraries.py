"""Libraries of a step try programs and sockets at their import, and go on without. In a process of its own: a hook stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIBRARY = """
import socket, subprocess
def look(seen):
    for attempt in (lambda: subprocess.run(["true"]), lambda: socket.socket(socket.AF_INET6)):
        try:
            attempt()
        except PermissionError:
            seen.append("refused")
seen, of_packages = [], []
look(seen)
def import_libraries():
    look(of_packages)
"""

PROGRAM = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from bioengine_runner.conversion.libraries import import_step
step = import_step("library")
assert step.seen == ["refused"] * 2 and "numpy.testing" in sys.modules
assert step.of_packages == ["refused"] * 2
assert subprocess.run(["true"]).returncode == 0, "afterwards, the filter decides"
try:
    import_step("missing_library")
except ModuleNotFoundError:
    subprocess.run(["true"])
"""


def test_what_a_library_tries_at_its_import_gets_an_error(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(LIBRARY)
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True)
