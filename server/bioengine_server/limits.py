"""Limits as those who exceed them are told of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeLimit:
    """Bytes of one request's inputs, at most."""

    bytes: int

    whose: str = "this server takes"
    """Who sets it, as in "... at most 5 MB in one request"."""

    remedy: str = "ask the server's admin to raise BIOENGINE_MAX_REQUEST_SIZE"
    """What somebody can do who needs more."""
