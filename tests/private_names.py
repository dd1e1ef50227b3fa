"""Where the tree touches private names of other libraries: nowhere but in the rooms `foreign`.

A private name begins with one underscore. Seen are `thing._name`, `from library import _name`, `getattr(thing, "_name")`, and
names of a class of a library that a class of ours overrides or uses on itself, as on `self`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = {
    "os._exit": "the documented way to end a process at once",
    "_replace": "a public method of named tuples, whose underscore keeps it apart from their fields",
}

_OWN = ("bioengine_", "building", "layout", "recipes", "lock", "steps")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def touched(file: Path) -> Iterator[str]:
    """`file:line: code` of each private name in a file that is not defined in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined = set(_defined(tree))
    for node in ast.walk(tree):
        for name, code in _uses(node):
            if name not in defined and name not in ALLOWED and code not in ALLOWED:
                yield f"{file.relative_to(ROOT)}:{node.lineno}: {code}"  # type: ignore[attr-defined]


def _uses(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Private names that a piece of code uses of something else than its own object, with the code."""
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        owner = ast.unparse(node.value)
        if owner not in ("self", "cls", "super()"):
            yield node.attr, ast.unparse(node)
    elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith(_OWN):
        for name in (*str(node.module).split("."), *(alias.name for alias in node.names)):
            if is_private(name):
                yield name, ast.unparse(node)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
        if isinstance(wanted := node.args[1], ast.Constant) and is_private(str(wanted.value)):
            yield str(wanted.value), ast.unparse(node)


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in ("self", "cls"):
            yield node.attr


# Steps of the conversion, which run in an environment of their own; no class of theirs is derived from a library's.
_WITH_TENSORFLOW = ("conversion.keras", "conversion.saved_model")


def modules(package: str) -> Iterator[ModuleType]:
    """All modules of a package, imported; without programs, what stands in `foreign`, and what needs TensorFlow."""
    found = importlib.import_module(package)
    for each in pkgutil.walk_packages(found.__path__, f"{package}."):
        if not each.name.endswith(("__main__", *_WITH_TENSORFLOW)) and ".foreign" not in each.name:
            yield importlib.import_module(each.name)


def inherited(module: ModuleType) -> Iterator[str]:
    """`module.Class._name` of each private name of a library's class that a class of the module overrides or uses on itself."""
    for owner in vars(module).values():
        if inspect.isclass(owner) and owner.__module__ == module.__name__:
            written = _written(owner)
            for base in filter(_is_of_a_library, owner.__mro__[1:]):
                names = {name for name in vars(base) if is_private(name)} | _written(base)
                yield from (f"{module.__name__}.{owner.__name__}.{name}" for name in sorted(written & names))


def _written(owner: type) -> set[str]:
    """Private names that the code of a class defines, or uses on itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    except (OSError, TypeError):  # made without a source
        return set()
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls", "super()")
    }
    return {name for name in (used | set(_defined(tree))) if is_private(name)}


def _is_of_a_library(owner: type) -> bool:
    library = owner.__module__.partition(".")[0]
    return not library.startswith(_OWN) and library not in sys.stdlib_module_names
