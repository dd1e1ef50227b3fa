"""What a step of a conversion reports to the server: `report.json` in its output folder.

Code of the package runs in the process that writes it: the server takes it for a reason to name, never for a proof.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path

FILE_NAME = "report.json"
REFUSED_CALL = "refused-call"
"""The file for the name of the system call that the sandbox has refused; empty while there was none."""

_MAX_DETAIL = 1000  # characters


class Outcome(enum.StrEnum):
    DONE = "done"
    NEEDS_MODULE = "needs module"
    """`detail`: the module's name."""
    TOO_LITTLE_MEMORY = "too little memory"
    NO_SANDBOX = "no sandbox"
    """`detail`: what this machine's kernel has of it."""
    FAILED = "failed"
    """`detail`: what was raised."""


class Refusal(Exception):
    """The weights cannot be converted. `detail`: why, as the second half of a sentence."""

    def __init__(self, detail: str, outcome: Outcome = Outcome.FAILED) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


@dataclass(frozen=True)
class Report:
    """`versions`: of the libraries that have made the weights. `remarks`: what the framework has warned of."""

    outcome: Outcome
    detail: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        content = {
            "outcome": self.outcome.value,
            "detail": self.detail[:_MAX_DETAIL],
            "versions": self.versions,
            "remarks": [remark[:_MAX_DETAIL] for remark in self.remarks[:10]],
        }
        (folder / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
