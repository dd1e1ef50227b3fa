"""Make each user's workspace once.

Hypha makes it when the first client of a token connects. If two connect at that moment, both find that there is none, and the
second is refused because there is one now.
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from bioengine_server.foreign.hypha import Method, wrap_store


def make_workspaces_once() -> None:
    wrap_store("load_or_create_workspace", _alone)


def _alone(method: Method) -> Method:
    """Of those who want the same workspace, one after the other looks for it, and makes it if there is none."""
    locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load_or_create_workspace(self: Any, user_info: Any, workspace: str | None) -> Any:
        lock = locks.setdefault(workspace or user_info.get_workspace(), asyncio.Lock())
        async with lock:
            return await method(self, user_info, workspace)

    return load_or_create_workspace
