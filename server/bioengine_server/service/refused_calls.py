"""Calls of `execute` that are refused: whoever counts and logs requests is told who sent them, and for which model."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bioengine_contract.ids import RUNNER

from bioengine_server.access.caller import Caller
from bioengine_server.access.refusals import Refusals

Method = Callable[..., Awaitable[Any]]


def telling(method: Method, refusals: Refusals) -> Method:
    """The method `execute` that tells of each call that it refuses."""

    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await method(*args, **kwargs)
        except Exception as error:
            refusals.tell(error, Caller.from_context(kwargs.get("context")), asked_model(kwargs))
            raise

    return call


def asked_model(arguments: Mapping[str, Any]) -> str:
    """The model that arguments of `execute` name, which may be wrong in any way; empty if they name none."""
    name, inputs = arguments.get("model_name"), arguments.get("inputs")
    if isinstance(name, str) and name == RUNNER:  # an array would be compared value by value
        request = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else None
        name = dict.get(request, "model_id") if isinstance(request, dict) else None
    return name if isinstance(name, str) else ""
