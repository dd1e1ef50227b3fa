"""Stacks that several files attack; each test leaves them as they were."""

from __future__ import annotations

from tests.stack.conftest import filled_home, guarded, own_home, stack

__all__ = ["filled_home", "guarded", "own_home", "stack"]
