"""Run the clients' programs side by side before the tests that check their outcomes.

A program of imjoy-rpc that was refused, or does not disconnect, takes 10 s to end, in which it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

Outcome = TypeVar("Outcome")


def selected(request: pytest.FixtureRequest, test: str, *names: str) -> list[tuple[Any, ...]]:
    """The parameters with these names of all cases of `test`, of the module that asks, that are run this time."""
    items = [item for item in request.session.items if item.path == request.path and getattr(item, "originalname", "") == test]
    return [tuple(item.callspec.params[name] for name in names) for item in items if hasattr(item, "callspec")]


@contextmanager
def ahead(
    run: Callable[..., Outcome], cases: Iterable[tuple[Hashable, ...]], at_once: int = 6
) -> Iterator[Callable[..., Outcome]]:
    """Begin `run(*case)` for all cases; what is given returns, or raises, what the case came to."""
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = {case: pool.submit(run, *case) for case in cases}

        def outcome(*case: Hashable) -> Outcome:
            return outcomes[case].result()

        try:
            yield outcome
        finally:
            pool.shutdown(cancel_futures=True)
