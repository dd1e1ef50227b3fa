"""Errors that only plain HTTP requests get."""

from __future__ import annotations

from collections.abc import Sequence

from bioengine_contract.errors import BioEngineError

from bioengine_server.access.errors import Busy
from bioengine_server.untrusted import shown


class NoSuchPage(BioEngineError):
    code = "not_found"
    status = 404

    def __init__(self, path: str) -> None:
        super().__init__(
            f"Not found: {path[:100]!r}. Clients use /ws, /public/services/triton-client/execute and "
            "/triton/v2/...; /health/readiness says whether the server is ready."
        )


class WrongMethod(BioEngineError):
    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"Method {method[:20]} is not allowed for {path}; use {' or '.join(allowed)}.")
        self.allowed = tuple(allowed)


class BodiesTooLarge(Busy):
    """The bodies of all running requests together would exceed the memory for bodies."""

    code = "bodies_too_large"

    def __init__(self, most: int) -> None:
        Exception.__init__(
            self,
            f"The server is busy: the requests in progress have {most / 1e6:.0f} MB together already, which is the limit. "
            "Try again in a few seconds.",
        )


class NoParts(BioEngineError):
    """A part of a file was requested, but the file is only available as a whole."""

    code = "no_parts"
    status = 416

    def __init__(self, path: str) -> None:
        super().__init__(f"{shown(path)} is not available in parts. Request the whole file, without the header Range.")
