"""What is refused of plain HTTP alone."""

from __future__ import annotations

from bioengine_server.errors import BioEngineError, Busy
from bioengine_server.untrusted import shown


class BodiesTooLarge(Busy):
    """The bodies of all requests under way would not fit into the memory that is meant for them."""

    def __init__(self, most: int) -> None:
        Exception.__init__(
            self,
            f"The server is busy: the requests under way have {most / 1e6:.0f} MB together already, and that is the limit. "
            "Try again in a few seconds.",
        )


class NoParts(BioEngineError):
    """A part of a file is asked for that is given as a whole."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{shown(path)} is not given in parts. Ask for the whole file, without a Range.")
