"""Which tests a change touches: those that changed, and those that import a module that did, directly or through others.

Tests that start a stack run all of the server without importing it; of them, only those that changed themselves are chosen.
"""

from __future__ import annotations

import ast
import subprocess
from collections import defaultdict
from pathlib import Path

# Where modules are found, and what they are called there.
_SOURCES = ("contract", "server", "model_runner", ".")


def changed_tests(root: Path) -> list[str]:
    """The files of tests to run for what differs from the last commit, by their paths below `root`."""
    changed = {path for path in _changed_files(root) if path.endswith(".py") and (root / path).exists()}
    importers = _importers(root)
    touched, pending = set(changed), list(changed)
    while pending:
        for importer in importers[pending.pop()] - touched:
            touched.add(importer)
            pending.append(importer)
    return sorted(path for path in touched if path.startswith("tests/unit/") or (path in changed and path.startswith("tests/")))


def _changed_files(root: Path) -> set[str]:
    """Modified, added and untracked files."""
    lines = _git(root, "status", "--porcelain", "--untracked-files=all", "--no-renames").splitlines()
    return {line[3:].strip('"') for line in lines}


def _importers(root: Path) -> defaultdict[str, set[str]]:
    """For each file, the files that import it."""
    files = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "*.py").split()
    modules = {_module(path): path for path in files}
    importers: defaultdict[str, set[str]] = defaultdict(set)
    for path in files:
        if (root / path).exists():
            for name in _imported((root / path).read_text(encoding="utf-8")):
                if name in modules:
                    importers[modules[name]].add(path)
    return importers


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def _module(path: str) -> str:
    for source in _SOURCES:
        if path.startswith(f"{source}/bioengine_"):
            path = path.removeprefix(f"{source}/")
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
