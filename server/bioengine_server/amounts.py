"""Amounts as people write them: sizes such as `8GB` or `50%`, and durations such as `30m`."""

from __future__ import annotations

import re
from typing import Annotated

from bioengine_contract.machine import machine_memory
from pydantic import BeforeValidator

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.IGNORECASE)
_NO_END = "-1"


def parse_size(value: object) -> int:
    """Bytes. Raises ValueError.

    Args:
        value: a number of bytes; a text such as "8GB", "500 MiB"; or "50%", a share of this machine's memory.
    """
    text = str(value).strip()
    if share := _SHARE.fullmatch(text):
        if 0 < float(share[1]) <= 100:
            return int(machine_memory() * float(share[1]) / 100)
    elif size := _SIZE.fullmatch(text):
        return int(float(size[1]) * _UNITS[(size[2] or "").lower()])
    raise ValueError(f"{text[:40]!r} is not a size; expected bytes, or such as 8GB, 500MiB or 50%")


def parse_duration(value: object) -> float:
    """Seconds; -1 stands for no end. Raises ValueError.

    Args:
        value: a number of seconds, or a text such as "90", "30m", "1.5h", "-1".
    """
    text = str(value).strip()
    if text in (_NO_END, f"{_NO_END}.0"):
        return -1.0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a duration; expected seconds, such as 90s, 30m or 2h, or -1 for no end")
    return float(found[1]) * _SECONDS[(found[2] or "s").lower()]


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
