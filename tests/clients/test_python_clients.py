"""All calls of the contract with the Python libraries, unmodified: every generation, async and sync."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.ahead import ahead, selected
from tests.clients.libraries import CLIENTS
from tests.stack.harness import ROOT, Stack, python
from tests.tiers import cases

PROGRAM = ROOT / "tests" / "clients" / "program.py"
CALLS = re.findall(r'^@call\("(.+)"\)$', PROGRAM.read_text(), re.MULTILINE)
# In the core tier one of each generation: the same code serves both modes of a library.
CORE = [("client-imjoy-early", "imjoy", "async"), ("client-imjoy", "imjoy", "sync"), ("client-hypha", "hypha", "async")]
ALL_CLIENTS = cases(CLIENTS, CORE)


def run_program(environment: str, folder: Path, *arguments: str) -> Any:
    """The report of a client's program, whose last argument is the file for it."""
    command = [python(environment), *arguments, str(folder / "report.json")]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, stack: Stack, peers: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str, str], Any]]:
    """What a client's program reported; each runs once."""

    def report(environment: str, library: str, mode: str) -> Any:
        folder: Path = tmp_path_factory.mktemp(f"{environment}-{mode}")
        (folder / "given.json").write_text(json.dumps(peers["hypha" if library == "imjoy" else "imjoy"]))
        return run_program(environment, folder, str(PROGRAM), library, mode, stack.url, str(folder / "given.json"))

    with ahead(report, dict.fromkeys(selected(request, "test_call", "environment", "library", "mode")), at_once=3) as outcome:
        yield outcome


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("environment", "library", "mode"), ALL_CLIENTS, ids=lambda value: value.removeprefix("client-"))
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
