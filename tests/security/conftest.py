"""The stacks of `tests/stack`, attacked here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.witness import Witness
from tests.stack.conftest import filled_home, stack  # noqa: F401
from tests.stack.harness import Stack


@pytest.fixture
def witness(stack: Stack, packages: Path) -> Iterator[Witness]:  # noqa: F811
    with Witness(stack, packages) as watching:
        yield watching
