"""Run the test of a package in the model runner's environment, and read its report. The test runs the package's model, whose code
may be malicious: it gets no terminal, limited time and memory, and its report is checked before it is used.
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
from typing import Annotated, Literal, TypeVar

from bioengine_contract.removal import remove
from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from bioengine_server.store.errors import StoreError
from bioengine_server.untrusted import printable

_MAX = 3600.0  # seconds
_MAX_OUTPUT = 65_536  # bytes; of more output, the last part is kept
_MAX_REPORT = 1_000_000  # bytes


class TilesOutcome(BaseModel):
    """How exact results in tiles are, or why they cannot be compared: with the whole image, or, if `halo` is there, with those
    in tiles that lie elsewhere. `share`: the largest of the differences as a share of the output's range.
    """

    problem: str | None = None
    tile: dict[str, int] = {}
    halo: dict[str, int] = {}
    differences: dict[str, float] = {}
    share: float = 0.0


class PrecisionOutcome(BaseModel):
    """How far results with BIOENGINE_PRECISION=fast differ from the exact ones, or why they cannot be compared."""

    problem: str | None = None
    differences: dict[str, float] = {}


class WeightsOutcome(BaseModel):
    """The outcome for one weight format of a package. `summary`: bioimageio.core's complete summary. `precision`: on a GPU."""

    status: Literal["passed", "failed"]
    errors: list[str]
    summary: dict[str, JsonValue] | None = None
    tiles: TilesOutcome
    precision: PrecisionOutcome | None = None


class HaloOutcome(BaseModel):
    """The halo of a model: `pixels` of the input by axis, and the `difference` that is left, as a share of the output's range; or
    why it is not known.
    """

    problem: str | None = None
    pixels: dict[str, Annotated[int, Field(ge=0)]] = {}
    difference: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class _OnlyHalo(BaseModel):
    halo: HaloOutcome


_Report = TypeAdapter(dict[str, WeightsOutcome])
_HaloReport = TypeAdapter(dict[str, _OnlyHalo])
_Outcome = TypeVar("_Outcome")


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
    """Run the test and return its report. The test is confined as in Triton: it reads the package and writes only to a temporary
    folder. Raises StoreError.

    Args:
        id, package: the model's id, and its folder.
        python: the Python of the model runner's environment.
        formats: the weight formats to test; the report contains exactly these.
        variables: the environment variables of the test.
        longest: seconds that it may take.
    """
    return _reported(id, package, python, formats, formats, variables, longest, _Report)


def run_halo_test(
    id: str, package: Path, python: Path, weights_format: str, variables: Mapping[str, str], longest: float
) -> HaloOutcome:
    """Measure the halo of a package with one of its weight formats; the arguments and errors are those of `run_test`."""
    arguments = ["--halo", weights_format]
    return _reported(id, package, python, arguments, [weights_format], variables, longest, _HaloReport)[weights_format].halo


def _reported(
    id: str,
    package: Path,
    python: Path,
    arguments: list[str],
    formats: list[str],
    variables: Mapping[str, str],
    longest: float,
    kind: TypeAdapter[dict[str, _Outcome]],
) -> dict[str, _Outcome]:
    working = Path(tempfile.mkdtemp(prefix="bioengine-test-"))
    try:
        command = [str(python), "-P", "-m", "bioengine_runner.confined_test", str(package), str(working), *arguments]
        status, output = _run(id, command, variables, longest)
        try:
            return _read(id, working / "report.json", formats, kind)
        except FileNotFoundError:
            last = (output.strip().splitlines() or ["no reason given"])[-1]
            raise StoreError(f"The test of {id} could not be run (exit status {status}): {printable(last[:500])}") from None
    finally:
        remove(working)


def _run(id: str, command: list[str], variables: Mapping[str, str], longest: float) -> tuple[int, str]:
    """The exit status, and the end of the output. Afterwards, all processes of the test have ended. Raises StoreError."""
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
    end = time.monotonic() + longest
    said = b""
    try:
        with process.stderr:
            poll = select.poll()
            poll.register(process.stderr, select.POLLIN)
            while process.poll() is None:
                if time.monotonic() > end:
                    raise StoreError(
                        f"The test of {id} took more than {longest:.0f} s and was stopped: the model is too slow, or never ends."
                    )
                if poll.poll(100):
                    data = os.read(process.stderr.fileno(), _MAX_OUTPUT)
                    said = (said + data)[-_MAX_OUTPUT:]
                    if not data:  # all processes that had the pipe have closed it
                        time.sleep(0.1)
            if poll.poll(0):
                said = (said + os.read(process.stderr.fileno(), _MAX_OUTPUT))[-_MAX_OUTPUT:]
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said.decode(errors="replace")


def _read(id: str, file: Path, formats: list[str], kind: TypeAdapter[dict[str, _Outcome]]) -> dict[str, _Outcome]:
    """Read and check the report. Raises BadReport, FileNotFoundError."""
    try:
        # The model may have put a link or a pipe there instead of a file: it must not be followed or waited for.
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
        report = kind.validate_json(content)
    except ValidationError as error:
        raise BadReport(id, f"is not valid ({error.errors()[0]['type']})") from None
    if set(report) != set(formats):
        raise BadReport(id, f"is not about {', '.join(formats)}")
    return report
