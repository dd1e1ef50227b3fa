"""The import of bioimageio.core in the process of a model. In processes of their own: a module is imported once."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import gc, sys
from bioengine_runner.lean_import import COMMAND_LINE, lean_import
with lean_import():
    assert not gc.isenabled()
    from bioengine_runner.inference import Pipeline
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert not hasattr(sys.modules[COMMAND_LINE], "Bioimageio"), "it was imported"
try:
    with lean_import():
        import a_module_that_is_not_there
except ModuleNotFoundError:
    assert gc.isenabled()
"""


def test_the_command_line_is_left_out_and_the_collector_is_back() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_the_library_uses_nothing_of_its_command_line() -> None:
    found = importlib.util.find_spec("bioimageio.core")
    assert found is not None and found.origin is not None
    folder = Path(found.origin).parent
    using = {
        file.name
        for file in folder.rglob("*.py")
        if file.name != "cli.py" and re.search(r"import cli\b|\.cli import|\bcli\.\w+\(", file.read_text())
    }
    assert using == {"__init__.py", "__main__.py"}, "the package itself, and the program"
