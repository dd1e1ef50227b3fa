"""Import libraries that define hundreds of pydantic models, such as bioimageio.spec, in two thirds of the time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from pydantic import BaseModel

from bioengine_contract.foreign.pydantic import without_descriptions


@contextlib.contextmanager
def lean_import() -> Iterator[None]:
    """For first imports.

    Models that are defined meanwhile are built when they are first used, and have no descriptions of their fields. What is there
    afterwards stays, and is never looked at for garbage again.
    """
    usual = BaseModel.model_config
    BaseModel.model_config = {**usual, "defer_build": True}  # of BaseModel itself, whose models inherit it
    gc.disable()
    try:
        with without_descriptions():
            yield
    finally:
        BaseModel.model_config = usual
        gc.freeze()
        gc.enable()
