"""What all client tests share: the stack, and clients that offer a service to those under test."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.stack.conftest import filled_home, stack  # noqa: F401  # fixtures
from tests.stack.harness import ROOT, Stack, python


@pytest.fixture(scope="session")
def peers(stack: Stack) -> Iterator[dict[str, dict[str, str]]]:  # noqa: F811  # the fixture
    """A connected client of each generation that offers a service; by library.

    Others offer one with the name of the server's own, in their workspaces.
    """
    processes = {
        (library, service): subprocess.Popen(
            [python(f"client-{library}"), str(ROOT / "tests" / "clients" / "peer.py"), library, stack.url, service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for library in ("imjoy", "hypha")
        for service in ("peer", "triton-client")
    }
    offers = {key: json.loads(process.stdout.readline()) for key, process in processes.items() if process.stdout}
    yield {library: offer for (library, service), offer in offers.items() if service == "peer"}
    for process in processes.values():
        assert process.stdin
        process.stdin.close()
    for process in processes.values():
        process.wait(30)
