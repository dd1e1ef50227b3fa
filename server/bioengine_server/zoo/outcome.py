"""What came of one model, and the file that keeps it from one run of the command to the next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from bioengine_contract.errors import BioEngineError
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

Status = Literal["runs", "fails its test", "does not run", "not imported"]


class Outcome(BaseModel):
    """One line of the report."""

    asked: str
    """What was asked for: an id, or the name of a package."""
    id: str = ""
    version: str = ""
    formats: tuple[str, ...] = ()
    """Of all weights in the description."""
    way: str = ""
    """The weights that run here first, such as "onnx"; empty: none do."""
    status: Status = "does not run"
    test: str = ""
    """What the package's own test said, for each format that runs here."""
    tiles: str = ""
    """How far tiles differ from the whole image, or why that cannot be said."""
    seconds: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """For all of it: the download, the import with a conversion, the tests."""
    memory: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    """The peak of the test's process, in bytes."""
    reason: str = ""
    """Why it does not run, or fails."""


_File = TypeAdapter(list[Outcome])


class NotAReport(BioEngineError):
    """The file that would be continued is none of this command's."""

    code = "not_a_report"

    def __init__(self, file: Path) -> None:
        super().__init__(f"{file} is not a report of this command, so it is not continued. Choose another folder with --output.")


def read_outcomes(file: Path) -> dict[str, Outcome]:
    """The outcomes of earlier runs, by what was asked for; none if there is no file. Raises NotAReport, OSError."""
    try:
        return {outcome.asked: outcome for outcome in _File.validate_json(file.read_bytes())}
    except FileNotFoundError:
        return {}
    except ValidationError:
        raise NotAReport(file) from None


def as_json(outcomes: Mapping[str, Outcome]) -> bytes:
    return _File.dump_json(list(outcomes.values()), indent=1)
