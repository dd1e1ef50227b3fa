"""A server that is restarted while clients are connected and wait for results."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.libraries import CLIENTS
from tests.stack.harness import ROOT, Stack, fill_home, python

pytestmark = pytest.mark.extended

LONG = "600"  # seconds


@pytest.fixture(scope="module")
def reports(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """What the calls of each client ended with: the one under way, one of the old connection, one of a new connection."""
    home = tmp_path_factory.mktemp("restart") / "home"
    fill_home(home, packages)
    clients: dict[str, subprocess.Popen[str]] = {}
    with Stack(home) as stack:
        for environment, library, mode in CLIENTS:
            program = [python(environment), str(ROOT / "tests" / "clients" / "restart.py"), library, mode, stack.url, LONG]
            clients[f"{environment}-{mode}"] = subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        for client in clients.values():
            assert client.stdout and client.stdout.readline() == "connected\n", client.communicate()[1]
        time.sleep(2)  # the long calls are on their way, some of them in the queue
        stack.stop()
        stack.start()
        lines = {name: client.communicate("go on\n", timeout=60)[0].splitlines() for name, client in clients.items()}
        yield {name: [json.loads(line) for line in printed] for name, printed in lines.items()}


@pytest.mark.parametrize(("environment", "library", "mode"), CLIENTS, ids=lambda value: value.removeprefix("client-"))
def test_restart(reports: dict[str, list[dict[str, Any]]], environment: str, library: str, mode: str) -> None:
    under_way, old_connection, new_connection = reports[f"{environment}-{mode}"]
    assert under_way["success"] is False and "The server is being stopped." in under_way["error"]
    if library == "hypha":
        assert old_connection["success"] is True
    else:  # imjoy-rpc of most releases does not connect again once it was refused; its program hears of it at once
        assert old_connection.get("success") is True or "Permission denied" in old_connection["raised"], old_connection
    assert new_connection["success"] is True
