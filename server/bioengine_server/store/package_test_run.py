"""Run the test of a package in the model runner's environment, and read its report. The test runs the package's model, whose code
may be malicious: it gets no terminal, limited time and memory, and its report is checked before it is used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from bioengine_contract.removal import remove
from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from bioengine_server.store.errors import StoreError
from bioengine_server.store.hostile_process import NotAFile, TookTooLong, open_left_file, run_hostile
from bioengine_server.untrusted import printable

_MAX = 3600.0  # seconds
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
    try:
        working = Path(tempfile.mkdtemp(prefix="bioengine-test-"))
    except OSError as error:
        raise _not_begun(id, error) from error
    try:
        command = [str(python), "-P", "-m", "bioengine_runner.confined_test", str(package), str(working), *arguments]
        try:
            status, output = run_hostile(command, variables, longest)
        except TookTooLong:
            raise StoreError(
                f"The test of {id} took more than {longest:.0f} s and was stopped: the model is too slow, or never ends."
            ) from None
        except OSError as error:
            raise _not_begun(id, error) from error
        try:
            return _read(id, working / "report.json", formats, kind)
        except FileNotFoundError:
            last = (output.strip().splitlines() or ["no reason given"])[-1]
            raise StoreError(f"The test of {id} could not be run (exit status {status}): {printable(last[:500])}") from None
    finally:
        remove(working)


def _not_begun(id: str, error: OSError) -> StoreError:
    where = "" if error.filename is None else f" ({printable(str(error.filename))})"
    return StoreError(f"The test of {id} could not be begun: {error.strerror or error}{where}.")


def _read(id: str, file: Path, formats: list[str], kind: TypeAdapter[dict[str, _Outcome]]) -> dict[str, _Outcome]:
    """Read and check the report. Raises BadReport, FileNotFoundError."""
    try:
        with open_left_file(file) as stream:
            content = stream.read(_MAX_REPORT + 1)
    except NotAFile:
        raise BadReport(id, "is not a file") from None
    if len(content) > _MAX_REPORT:
        raise BadReport(id, "is too large")
    try:
        report = kind.validate_json(content)
    except ValidationError as error:
        raise BadReport(id, f"is not valid ({error.errors()[0]['type']})") from None
    if set(report) != set(formats):
        raise BadReport(id, f"is not about {', '.join(formats)}")
    return report
