"""Objects of one RPC library made fit for the other.

imjoy-rpc and hypha-rpc both pass on whatever carries `__rpc_object__` as it is, to a target that the other library's
peers do not know. So callables become plain functions, recursively, in arguments and results alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

caller: ContextVar[dict[str, Any] | None] = ContextVar("caller", default=None)
"""The user in whose name a function of a client is called; None for the client's own."""


def plain(value: Any) -> Any:
    """`value` with dicts and lists as plain ones and callables as plain functions."""
    return _mapped(value, _plain_function)


def in_name_of_callers(service: dict[str, Any]) -> Any:
    """A client's service as `plain` has it, each function with one more argument: `context`, of whom it is called for."""
    return _mapped(service, lambda function: _plain_function(function, take_context=True))


def _mapped(value: Any, change: Callable[[Callable[..., Any]], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in dict.items(value)}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    if callable(value) and not isinstance(value, type):
        return change(value)
    return value


def _plain_function(function: Callable[..., Any], take_context: bool = False) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        if take_context:
            caller.set((kwargs.pop("context") or {}).get("user"))
        result = function(*plain(args), **plain(kwargs))
        if hasattr(result, "__await__"):
            result = await result
        return plain(result)

    call.__doc__ = getattr(function, "__doc__", None)
    return _named(call, getattr(function, "__name__", ""))


def unannotated(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """A method with the signature that clients can read; arguments and results pass as they are."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await method(*args, **kwargs)

    return _named(call, method.__name__.removeprefix("_"))


def _named(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    call.__name__ = name.replace(".", "_") or "call"
    # imjoy-rpc sends the signature as text, and its clients cannot read annotations in it.
    call.__annotations__ = {}
    return call
