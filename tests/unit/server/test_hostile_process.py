"""A process that a package may have taken over ends with whoever has started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.stack.harness import ROOT, python

STEP = """
import os
from bioengine_runner.confinement.kernel import die_with_parent
die_with_parent()
open({file!r}, "w").write(str(os.getpid()))
import time
time.sleep(60)
"""
# Whoever runs the tests under nohup has SIGHUP ignored, by what they start as well.
SERVER = """
import os, signal
from bioengine_server.store.hostile_process import run_hostile
signal.signal(signal.SIGHUP, signal.SIG_DFL)
run_hostile({command}, os.environ, 60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_it_does_not_outlive_a_server_that_is_killed(tmp_path: Path, end: signal.Signals) -> None:
    file = tmp_path / "pid"
    command = json.dumps([python("runner"), "-c", STEP.format(file=str(file))])
    server = subprocess.Popen([sys.executable, "-c", SERVER.format(command=command)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        while not file.exists() or not file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pid = int(file.read_text())
        os.kill(server.pid, end)
        server.wait()
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        server.kill()
        server.wait()


def test_every_start_of_such_a_process_asks_for_it() -> None:
    """Before anything else of theirs, in the modules that `run_hostile` starts."""
    runner = ROOT / "model_runner" / "bioengine_runner"
    for module in ("conversion/start.py", "confined_test.py", "apps/check.py"):
        assert "\n    die_with_parent()\n" in (runner / module).read_text(), module
