"""Import bioimageio.core in the process of a model, without its command line.

bioimageio.core 0.11 imports `bioimageio.core.cli`, the parser of its command line, with itself, and uses nothing of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

from bioengine_contract.lean_import import lean_import

COMMAND_LINE = "bioimageio.core.cli"


@contextlib.contextmanager
def lean_import_of_core() -> Iterator[None]:
    """For the first import of bioimageio.core."""
    sys.modules.setdefault(COMMAND_LINE, ModuleType(COMMAND_LINE))
    with lean_import():
        yield
