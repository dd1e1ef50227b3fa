"""Every module of the server and of the contract is imported by some unit test, so that an error in it is seen in seconds.

What counts are the imports of the tests, and of what they import those that an import of it carries out: not those inside of
functions, which nobody may call.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.stack.harness import ROOT

PACKAGES = {"bioengine_server": ROOT / "server", "bioengine_contract": ROOT / "contract"}
TESTS = [ROOT / "tests" / "unit" / name for name in ("server", "contract")]


def modules() -> dict[str, Path]:
    """Files of both packages, by the name to import them by."""
    return {
        ".".join(file.relative_to(parent).with_suffix("").parts).removesuffix(".__init__"): file
        for package, parent in PACKAGES.items()
        for file in (parent / package).rglob("*.py")
    }


def imported(file: Path, everywhere: bool) -> Iterator[str]:
    """Names that a file imports, parents included. `everywhere`: also inside of functions, and what is run by its name."""
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and everywhere and str(node.value).startswith(tuple(PACKAGES)):
            names = [str(node.value)]  # for runpy
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
        if everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending += [] if _is_for_types(node) else list(ast.iter_child_nodes(node))


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_every_module_is_imported_by_a_unit_test() -> None:
    files = modules()
    pending = {name for folder in TESTS for file in folder.rglob("*.py") for name in imported(file, everywhere=True)}
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name in files and name not in reached:
            reached.add(name)
            pending |= set(imported(files[name], everywhere=False))
    assert set(files) - reached == set()
