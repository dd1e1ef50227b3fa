"""All calls of the contract with the Python libraries, unmodified: every generation, async and sync."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack.harness import ROOT, Stack, python

CLIENTS = [
    ("client-imjoy-early", "imjoy", "async"),  # it has no sync client yet
    ("client-imjoy", "imjoy", "async"),
    ("client-imjoy", "imjoy", "sync"),
    ("client-hypha", "hypha", "async"),
    ("client-hypha", "hypha", "sync"),
]
CALLS = re.findall(r'^@call\("(.+)"\)$', (ROOT / "tests" / "clients" / "program.py").read_text(), re.MULTILINE)


@pytest.fixture(scope="session")
def peers(stack: Stack) -> Iterator[dict[str, dict[str, str]]]:
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


@pytest.fixture(scope="session")
def reports(
    stack: Stack, peers: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Any]:
    """What a client's program reported; each runs once."""

    @functools.cache
    def report(environment: str, library: str, mode: str) -> Any:
        folder: Path = tmp_path_factory.mktemp(f"{environment}-{mode}")
        (folder / "given.json").write_text(json.dumps(peers["hypha" if library == "imjoy" else "imjoy"]))
        program = [str(ROOT / "tests" / "clients" / "program.py"), library, mode, stack.url]
        files = [str(folder / "given.json"), str(folder / "report.json")]
        run = subprocess.run([python(environment), *program, *files], cwd=folder, capture_output=True, text=True, timeout=400)
        assert run.returncode == 0, run.stderr
        return json.loads((folder / "report.json").read_text())

    return report


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("environment", "library", "mode"), CLIENTS, ids=lambda value: value.removeprefix("client-"))
def test_call(
    reports: Callable[[str, str, str], Any],
    record_property: Callable[[str, object], None],
    environment: str,
    library: str,
    mode: str,
    call: str,
) -> None:
    report = reports(environment, library, mode)
    record_property("client", f"{library}-rpc {report['version']}, {mode}")
    record_property("call", call)
    assert report["calls"][call] is None, report["calls"][call]
