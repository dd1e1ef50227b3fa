"""No room of the server imports one above it, and nothing that server and runner share imports either."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.stack.harness import ROOT

SERVER = ROOT / "server" / "bioengine_server"

# Low to high; a room may import those before it, and itself. `.`: modules of the package that import no room but these.
ROOMS = [
    "foreign",
    "network",
    "access",
    "store",
    "triton",
    "workers",
    "dispatch",
    "service",
    "control",
    "hypha",
    "gateway",
    "http",
]
BELOW_ALL = (
    "errors",
    "untrusted",
    "limits",
    "memory",
    "aside",
    "log_once",
    "log_file",
    "library",
    "room",
    "whole_file",
    "private_folder",
)
ABOVE_ALL = (
    "stack",
    "lifecycle",
    "worker_side",
    "parts",
    "fresh",
    "snippet",
    "commands",
    "apps",
    "bench",
    "soak",
    "slurm",
    "demo",
    "doctor",
    "cli",
    "images",
    "zoo",
    "testing",
    "own_server",
)


def imports(file: Path, package: str) -> set[str]:
    """The modules of `package` that a file imports, by what follows its name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == package:
            names = [f"{package}.{alias.name}" for alias in node.names]
        found |= {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_up(room: str) -> None:
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for file in (SERVER / room).rglob("*.py"):
        for name in imports(file, "bioengine_server"):
            top = name.split(".")[0]
            assert top not in ABOVE_ALL, f"{file.relative_to(SERVER)} imports {name}"
            assert top not in ROOMS or top in allowed, f"{file.relative_to(SERVER)} imports {name}, which is above it"


@pytest.mark.parametrize("module", BELOW_ALL)
def test_modules_below_all_rooms_import_none(module: str) -> None:
    rooms = {name.split(".")[0] for name in imports(SERVER / f"{module}.py", "bioengine_server")} & {*ROOMS, "settings"}
    assert not rooms, f"{module} imports {rooms}"


def test_the_contract_imports_nothing_of_either_side() -> None:
    for file in (ROOT / "contract" / "bioengine_contract").rglob("*.py"):
        assert not imports(file, "bioengine_server") and not imports(file, "bioengine_runner"), file
    for file in SERVER.rglob("*.py"):
        assert not imports(file, "bioengine_runner"), file
    for file in (ROOT / "model_runner" / "bioengine_runner").rglob("*.py"):
        assert not imports(file, "bioengine_server"), file
