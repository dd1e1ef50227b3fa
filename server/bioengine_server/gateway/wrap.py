"""Convert objects of one RPC library for the other.

imjoy-rpc and hypha-rpc both pass on objects with `__rpc_object__` unchanged, with a target that the other library's peers do not
know. So callables are replaced by plain functions, recursively, in arguments and results.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

caller: ContextVar[dict[str, Any] | None] = ContextVar("caller", default=None)
"""The caller of a client's function, as a Hypha context; None for the client itself."""


def plain(value: Any) -> Any:
    """`value` with plain dicts and lists, and with plain functions for callables."""
    return _mapped(value, _plain_function)


def in_name_of_callers(service: dict[str, Any]) -> Any:
    """A client's service as from `plain`, but each function has one more argument, `context`: the caller."""
    return _mapped(service, lambda function: _plain_function(function, take_context=True))


def parts_of(service: Any) -> Any:
    """A client's service as plain maps and lists that can be compared; functions become their annotations."""
    return _mapped(service, lambda function: getattr(function, "__rpc_object__", None))


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
            caller.set(kwargs.pop("context"))
        result = function(*plain(args), **plain(kwargs))
        if hasattr(result, "__await__"):
            result = await result
        return plain(result)

    said = getattr(function, "__rpc_object__", None)
    call.__doc__ = said.get("_rdoc") if isinstance(said, dict) else function.__doc__
    if (signature := _readable_signature(function)) is not None:
        call.__signature__ = signature  # type: ignore[attr-defined]
    return _named(call, getattr(function, "__name__", ""))


def _readable_signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of a function, if imjoy-rpc 0.5 can parse its text; otherwise None.

    It splits the text at commas, colons and equals signs, and does not know a separate `*` or `/`.
    """
    given = getattr(function, "__signature__", None)
    if not isinstance(given, inspect.Signature):
        return None
    parameters = []
    for parameter in given.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            parameters.append(inspect.Parameter(parameter.name, parameter.kind))
        elif _is_readable(parameter.default):
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters.append(inspect.Parameter(parameter.name, kind, default=parameter.default))
        else:
            return None
    try:
        return inspect.Signature(parameters)
    except ValueError:  # keyword-only parameters come where none without a default is allowed
        return None


def _is_readable(default: Any) -> bool:
    if isinstance(default, str):
        return re.fullmatch(r"[\w ./-]*", default, re.ASCII) is not None
    return default in (inspect.Parameter.empty, None, (), [], {}) or isinstance(default, (bool, int, float))


def unannotated(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """A method with a signature that clients can parse; arguments and results are passed unchanged."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await method(*args, **kwargs)

    return _named(call, method.__name__.removeprefix("_"))


def _named(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    call.__name__ = name.replace(".", "_") or "call"
    # imjoy-rpc sends the signature as text, and its clients cannot read annotations in it.
    call.__annotations__ = {}
    return call
