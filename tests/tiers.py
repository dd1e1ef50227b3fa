"""The cases that are in the core tier: one of each kind, while `bioengine test --all` runs all of them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def cases(all: Iterable[Any], core: Container[Any]) -> list[Any]:
    """All cases for `parametrize`, those that are not in `core` marked `extended`. A tuple is a case of several parameters."""
    return [case if case in core else _extended(case) for case in all]


def _extended(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.extended)
