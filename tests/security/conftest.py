"""Stacks that several files attack; each test leaves them as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.witness import Witness
from tests.stack.conftest import filled_home, guarded, own_home, stack
from tests.stack.harness import Stack

__all__ = ["filled_home", "guarded", "own_home", "stack", "witness"]


@pytest.fixture
def witness(stack: Stack, packages: Path) -> Iterator[Witness]:
    with Witness(stack, packages) as watching:
        yield watching
