"""The stacks of `tests/stack`, attacked here."""

from tests.stack.conftest import filled_home, guarded, own_home, stack  # noqa: F401
