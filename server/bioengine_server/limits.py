"""Size limits, with the words for the error message of a request that exceeds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeLimit:
    """The largest size of one request's inputs, in bytes."""

    bytes: int

    whose: str = "this server takes"
    """The beginning of the sentence "... at most 5 MB in one request"."""

    remedy: str = "ask the server's admin to raise BIOENGINE_MAX_REQUEST_SIZE"
    """What a user who needs more can do."""
