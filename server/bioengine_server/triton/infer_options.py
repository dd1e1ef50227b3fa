"""The options of an inference request of Triton's, and the values that they may have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MAX_PRIORITY = 2**32 - 1
MAX_TIMEOUT = 2**63 - 1  # microseconds
MAX_SEQUENCE_ID = 2**64 - 1
MAX_TEXTS = 100_000
"""Elements of a BYTES tensor, which are looked at one by one."""

_TEXT = re.compile(r"[ -~]{1,128}")


@dataclass(frozen=True)
class InferOptions:
    """What Triton is asked for besides the inputs, named as in its inference request (a client's: `service.infer_options`)."""

    model_version: str = ""
    request_id: str = ""
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    priority: int = 0
    timeout: int | None = None
    """Microseconds that the request may wait in Triton's queue."""


def is_whole(value: Any, most: int, least: int = 0) -> bool:
    """Whether a value is a whole number in a range; True and False are none."""
    return type(value) is int and least <= value <= most


def is_text(value: Any) -> bool:
    """Whether a value is a name that a client may give to a request or a sequence."""
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None
