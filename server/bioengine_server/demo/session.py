"""A server for the demo: the running one, or a temporary one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bioengine_server.home_in_use import usual_url
from bioengine_server.images.address import check_address
from bioengine_server.images.errors import NotABioEngine
from bioengine_server.network.ports import free_ports
from bioengine_server.own_server import own_server, why_not_ready
from bioengine_server.settings import Settings


@contextmanager
def running_server(settings: Settings, url: str | None = None) -> Iterator[str]:
    """The URL of a server that is ready. Raises StackError, NotABioEngine and the others of `check_address`.

    Args:
        settings: contain the address of the usual server, and the home: of a running server, or for a temporary one.
        url: the URL of a server that has to be running; None to use the usual one, or a temporary one.
    """
    if url is not None:
        url = url.rstrip("/")
        check_address(url)
        if reason := why_not_ready(url):
            raise NotABioEngine(url, f"it is not ready ({reason})")
        yield url
        return
    usual = usual_url(settings)
    if why_not_ready(usual) is None:
        yield usual
        return
    (port,) = free_ports(1)
    # Only for this command, which has no token: on loopback, and only as long as the command runs.
    own = settings.model_copy(update={"host": "127.0.0.1", "port": port, "access": "auto"})
    with own_server(own):
        yield own.url
