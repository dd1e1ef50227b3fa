"""Services that legacy clients call directly: through Hypha, images would be encoded twice more.

These are the services of this process, and those of other legacy clients, which are connected to this process.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from bioengine_server.hypha.rpc_limits import told_error

Method = Callable[..., Awaitable[Any]]


class LocalServices:
    """Service definitions, by the full ids that they have in Hypha."""

    def __init__(self) -> None:
        self._definitions: dict[str, dict[str, Any]] = {}

    def add(self, id: str, definition: dict[str, Any]) -> None:
        """`definition`: what was registered as `id`; its methods take a `context`."""
        self._definitions[id] = definition

    def remove(self, id: str) -> None:
        self._definitions.pop(id, None)

    def methods(self, id: str, context: dict[str, Any]) -> dict[str, Method]:
        """The methods of a service for a caller, with errors as Hypha reports them; empty for services of other processes."""
        definition = self._definitions.get(id, {})
        return {name: _bound(value, context) for name, value in definition.items() if callable(value)}


def _bound(method: Method, context: dict[str, Any]) -> Method:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **{**kwargs, "context": context})
        except Exception:
            raise RuntimeError(told_error(traceback.format_exc())) from None

    return call
