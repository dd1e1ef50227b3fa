"""What is refused of plain HTTP for want of room."""

from __future__ import annotations

from bioengine_server.errors import Busy


class BodiesTooLarge(Busy):
    """The bodies of all requests under way would not fit into the memory that is meant for them."""

    def __init__(self, most: int) -> None:
        Exception.__init__(
            self,
            f"The server is busy: the requests under way have {most / 1e6:.0f} MB together already, and that is the limit. "
            "Try again in a few seconds.",
        )
