"""Run the test of a package in the model runner's environment, and read its report. The test runs the package's model, whose code
may do whatever it likes: it gets no terminal and no endless time or memory of ours, and its report is read with care.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bioengine_contract.removal import remove
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from bioengine_server.store.errors import StoreError
from bioengine_server.untrusted import printable

_MAX = 3600.0  # seconds
_MAX_OUTPUT = 65_536  # bytes; the latest are kept
_MAX_REPORT = 1_000_000  # bytes


class TilesOutcome(BaseModel):
    """How far the result in tiles is from that of the whole, or why there is none."""

    problem: str | None = None
    tile: dict[str, int] = {}
    differences: dict[str, float] = {}


class WeightsOutcome(BaseModel):
    """The outcome for one of a package's weights. `summary`: bioimageio.core's own, in full."""

    status: Literal["passed", "failed"]
    errors: list[str]
    summary: dict[str, JsonValue] | None = None
    tiles: TilesOutcome


_Report = TypeAdapter(dict[str, WeightsOutcome])


class BadReport(StoreError):
    code = "bad_report"

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(
            f"The test of {id} wrote a report that cannot be used: it {reason}. Expected report.json, a file of at most "
            f"{_MAX_REPORT} bytes. The model itself may have written it: do not trust this package."
        )


def run_test(
    id: str, package: Path, python: Path, formats: list[str], variables: Mapping[str, str], longest: float = _MAX
) -> dict[str, WeightsOutcome]:
    """The report of the test, which runs confined as in Triton: it reads the package and writes to a folder of its own. Raises
    StoreError.

    Args:
        id, package: the model's, and its folder.
        python: of the model runner's environment.
        formats: the weights to test; the report has these and no others.
        variables: the environment of the test.
        longest: seconds that it may take.
    """
    working = Path(tempfile.mkdtemp(prefix="bioengine-test-"))
    try:
        command = [str(python), "-P", "-m", "bioengine_runner.confined_test", str(package), str(working), *formats]
        status, output = _run(id, command, variables, longest)
        try:
            return _read(id, working / "report.json", formats)
        except FileNotFoundError:
            last = (output.strip().splitlines() or ["no reason given"])[-1]
            raise StoreError(f"The test of {id} could not be run (exit status {status}): {printable(last[:500])}") from None
    finally:
        remove(working)


def _run(id: str, command: list[str], variables: Mapping[str, str], longest: float) -> tuple[int, str]:
    """The exit status, and the end of what it said. Nothing that it has started goes on afterwards. Raises StoreError."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=variables,
        # A session of its own: whoever shares ours could type into our terminal.
        start_new_session=True,
    )
    assert process.stderr is not None
    end = time.monotonic() + longest
    said = b""
    try:
        with process.stderr:
            poll = select.poll()
            poll.register(process.stderr, select.POLLIN)
            while process.poll() is None:
                if time.monotonic() > end:
                    raise StoreError(f"The test of {id} took more than {longest:.0f} s and was ended.")
                if poll.poll(100):
                    data = os.read(process.stderr.fileno(), _MAX_OUTPUT)
                    said = (said + data)[-_MAX_OUTPUT:]
                    if not data:  # closed by all that had it
                        time.sleep(0.1)
            if poll.poll(0):
                said = (said + os.read(process.stderr.fileno(), _MAX_OUTPUT))[-_MAX_OUTPUT:]
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said.decode(errors="replace")


def _read(id: str, file: Path, formats: list[str]) -> dict[str, WeightsOutcome]:
    """Raises BadReport, FileNotFoundError."""
    try:
        # What the model may have put there instead of a file is neither followed nor waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        raise BadReport(id, "is not a file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadReport(id, "is not a file")
    with open(descriptor, "rb") as stream:
        content = stream.read(_MAX_REPORT + 1)
    if len(content) > _MAX_REPORT:
        raise BadReport(id, "is too large")
    try:
        report = _Report.validate_json(content)
    except ValidationError as error:
        raise BadReport(id, f"is not valid ({error.errors()[0]['type']})") from None
    if set(report) != set(formats):
        raise BadReport(id, f"is not about {', '.join(formats)}")
    return report
