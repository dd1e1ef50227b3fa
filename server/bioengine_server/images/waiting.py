"""Wait for an answer only as long as the server is alive.

hypha-rpc 0.21 tries to reconnect forever, and a call to a server that has stopped waits for its whole timeout, an hour here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from bioengine_server.images.errors import ConnectionLost
from bioengine_server.network.http_get import WrongEnvironment, get

Result = TypeVar("Result")

_INTERVAL = 5.0  # seconds between two checks of the server
_PATIENCE = 30.0  # seconds without an answer after which the connection counts as lost; a restart takes less


def while_alive(call: Callable[[], Result], url: str, interval: float = _INTERVAL, patience: float = _PATIENCE) -> Result:
    """The result of `call`, or what it raises. Raises ConnectionLost if the server at `url` stops answering before that."""
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    # A daemon thread, so that the process can exit although the call never returns.
    threading.Thread(target=work, daemon=True).start()
    seen = time.monotonic()
    while not done.wait(interval):
        if _answers(url):
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            raise ConnectionLost(url, f"for {patience:.0f} s")
    if errors:
        raise errors[0]
    return results[0]


def _answers(url: str) -> bool:
    try:
        get(f"{url}/health/liveness", 10)
    except (httpx.HTTPError, WrongEnvironment):
        return False
    return True
