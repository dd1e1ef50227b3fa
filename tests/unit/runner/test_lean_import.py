"""The import of bioimageio.core in the process of a model. In processes of their own: a module is imported once."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from bioengine_contract.library import changes

PROGRAM = """
import gc, sys
from bioengine_runner.lean_import import COMMAND_LINE, lean_import_of_core
from pydantic import BaseModel
with lean_import_of_core():
    assert not gc.isenabled()
    from bioengine_runner.inference import Pipeline
    from bioimageio.spec.model import v0_5

    class Documented(BaseModel, use_attribute_docstrings=True):
        value: int
        '''Of something.'''
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert not hasattr(sys.modules[COMMAND_LINE], "Bioimageio"), "it was imported"
assert not v0_5.ModelDescr.__pydantic_complete__, "it is built when it is used"
assert Documented.model_fields["value"].description is None
assert Documented(value=1).value == 1 and Documented.__pydantic_complete__
try:
    with lean_import_of_core():
        import a_module_that_is_not_there
except ModuleNotFoundError:
    assert gc.isenabled()

class Later(BaseModel, use_attribute_docstrings=True):
    value: int
    '''Of something.'''
assert Later.__pydantic_complete__ and Later.model_fields["value"].description == "Of something."
"""


def test_an_import_is_lean_and_nothing_else_is(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # a file: pydantic finds no descriptions in what has none
    program.write_text(PROGRAM)
    subprocess.run([sys.executable, str(program)], check=True)


def test_nothing_of_pydantic_differs_from_what_was_looked_at() -> None:
    assert list(changes("bioengine_contract.foreign")) == []


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
