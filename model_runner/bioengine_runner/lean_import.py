"""Import bioimageio.core in the process of a model: without its command line, and without looking for garbage meanwhile.

Together these are a fifth of the time until a package can be opened. bioimageio.core 0.11 imports `bioimageio.core.cli`, the
parser of its command line, with itself, and uses nothing of it.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from types import ModuleType

COMMAND_LINE = "bioimageio.core.cli"


@contextlib.contextmanager
def lean_import() -> Iterator[None]:
    """For the first import of bioimageio.core. What is there afterwards stays, and is never looked at for garbage again."""
    sys.modules.setdefault(COMMAND_LINE, ModuleType(COMMAND_LINE))
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
