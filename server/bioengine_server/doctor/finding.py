"""What `bioengine doctor` finds out: each examination yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from bioengine_server.doctor.setup import Setup

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """`verdict`: `ok`; `note` if it works but could be better; `problem` if it does not work. `advice`: what to do."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


Examination = Callable[[Setup], Iterator[Finding]]
