"""A Triton that neither answers nor ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.stack.harness import Stack, example_input, get, wait_for

# The server with a probe that is given up after 10 s; a busy machine's takes longer, so the usual limit is 50 s.
IMPATIENT = """
from bioengine_server.service import readiness
readiness._PROBE_TIMEOUT = 10.0
from bioengine_server.cli import app
app(prog_name="bioengine")
"""


@pytest.mark.extended
def test_a_triton_that_hangs_is_started_again(own_home: Path, packages: Path) -> None:
    """Neither dead nor failing: it is no longer believed in after two probes."""
    with Stack(own_home, program=(sys.executable, "-c", IMPATIENT)) as stack:
        triton = stack.triton()
        triton.send_signal(signal.SIGSTOP)
        wait_for(lambda: get(f"{stack.url}/health/readiness")[0] == 503, 30, "not ready")
        wait_for(lambda: not triton.is_running(), 60, "Triton ended")
        stack.wait_until_ready()
        with stack.client() as client:
            assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
