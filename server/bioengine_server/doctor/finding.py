"""What an examination finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from bioengine_server.doctor.setup import Setup

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """`verdict`: `ok`; `note`, for what works and could be better; `problem`, for what does not work. `advice`: what to do."""

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


Examination = Callable[[Setup], Iterator[Finding]]
