"""The stacks of tests/stack, for attacks on them."""

from __future__ import annotations

from tests.stack.conftest import filled_home, guarded, own_home, stack

__all__ = ["filled_home", "guarded", "own_home", "stack"]
