"""A server for a demo: the one that runs, or one of its own for as long as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bioengine_server.images.address import check_address
from bioengine_server.images.errors import NotABioEngine
from bioengine_server.network.ports import free_ports
from bioengine_server.own_server import own_server, why_not_ready
from bioengine_server.settings import Settings


@contextmanager
def running_server(settings: Settings, url: str | None = None) -> Iterator[str]:
    """The URL of a server that is ready. Raises StackError, NotABioEngine and the others of `check_address`.

    Args:
        settings: name the usual server, and the home for one of our own.
        url: of a server that must be there.
    """
    if url is not None:
        url = url.rstrip("/")
        check_address(url)
        if reason := why_not_ready(url):
            raise NotABioEngine(url, f"it is not ready ({reason})")
        yield url
        return
    if why_not_ready(settings.url) is None:
        yield settings.url
        return
    (port,) = free_ports(1)
    # For this command, which has no token for it: on loopback, and not longer than it runs.
    own = settings.model_copy(update={"host": "127.0.0.1", "port": port, "access": "auto"})
    with own_server(own):
        yield own.url
