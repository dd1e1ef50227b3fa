"""Objects of one RPC library made fit for the other.

imjoy-rpc and hypha-rpc both pass on whatever carries `__rpc_object__` as it is, to a target that the other library's
peers do not know. So callables become plain functions, recursively, in arguments and results alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def plain(value: Any) -> Any:
    """`value` with dicts and lists as plain ones and callables as plain functions."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if callable(value) and not isinstance(value, type):
        return plain_function(value)
    return value


def plain_function(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*plain(args), **plain(kwargs))
        if hasattr(result, "__await__"):
            result = await result
        return plain(result)

    call.__name__ = getattr(function, "__name__", "call").replace(".", "_") or "call"
    call.__doc__ = getattr(function, "__doc__", None)
    # imjoy-rpc sends the signature as text, and its clients cannot read annotations in it.
    call.__annotations__ = {}
    return call
