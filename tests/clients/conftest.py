"""The stack that all client tests share."""

from tests.stack.conftest import filled_home, stack  # noqa: F401  # fixtures
