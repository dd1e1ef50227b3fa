"""A server for a demo: the one that runs, or one of its own for as long as it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from bioengine_server.errors import NoServer, StackError
from bioengine_server.hub.ports import free_ports
from bioengine_server.settings import Settings

_START_TIMEOUT = 180.0  # seconds


@contextmanager
def running_server(settings: Settings, url: str | None = None) -> Iterator[str]:
    """The URL of a server that is ready. Raises NoServer, StackError.

    Args:
        settings: name the usual server, and the home for one of our own.
        url: of a server that must be there.
    """
    if _is_ready(url or settings.url):
        yield url or settings.url
        return
    if url is not None:
        raise NoServer(url)
    (port,) = free_ports(1)
    own = settings.model_copy(update={"host": "127.0.0.1", "port": port})
    command = [sys.executable, "-m", "bioengine_server", "up", "--host", own.host, "--port", str(port), "--home", str(own.home)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not _is_ready(own.url):
            if process.poll() is not None:
                assert process.stderr is not None
                raise StackError(process.stderr.read().strip().removeprefix("bioengine: "))
            if time.monotonic() > deadline:
                raise StackError(f"The server did not become ready within {_START_TIMEOUT:.0f} s. `./bioengine up` shows why.")
            time.sleep(0.2)
        yield own.url
    finally:
        process.terminate()
        process.communicate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/readiness", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
