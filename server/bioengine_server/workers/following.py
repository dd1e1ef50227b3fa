"""A run in a model's process, followed through the folder that its request shares with it: which tile it is at, and its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from bioengine_contract.shared_tensors import SharedFolder

from bioengine_server.workers.worker import Follower

# Short runs are not looked at: nobody needs to know more of them than their result.
_FIRST_LOOK, _INTERVAL = 0.5, 0.2  # seconds


@contextlib.contextmanager
def followed(folder: SharedFolder | None, follower: Follower) -> Iterator[None]:
    """Tell `follower` of each tile, and have the process end its work when nobody wants the result, while the context is open."""
    if folder is None:
        yield
        return
    loop = asyncio.get_running_loop()
    next_look: asyncio.TimerHandle

    def look() -> None:
        nonlocal next_look
        if follower.stopped.is_set():
            folder.stop()
        elif (found := folder.tile()) is not None:
            follower.tile(*found)
        next_look = loop.call_later(_INTERVAL, look)

    next_look = loop.call_later(_FIRST_LOOK, look)
    try:
        yield
    finally:
        next_look.cancel()
