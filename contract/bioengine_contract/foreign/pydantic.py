"""pydantic's private names: how it reads the descriptions of a model's fields from the source of its class.

bioimageio.spec asks for that (`use_attribute_docstrings`) in each of its 170 classes. JSON schemas alone show the descriptions,
and nobody here makes any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pydantic
from pydantic._internal import _fields

VERSION = "2.13.5"
PARTS = {"_update_fields_from_docstrings": (getattr(_fields, "_update_fields_from_docstrings", None), "76ad9dc95e3b")}


@contextlib.contextmanager
def without_descriptions() -> Iterator[None]:
    """Have fields of classes that are made in this context no descriptions from their source.

    In another version of pydantic, whose names may be others, nothing is left out: that takes longer, and is not wrong.
    """
    if pydantic.VERSION != VERSION:
        yield
        return
    reads = _fields._update_fields_from_docstrings
    _fields._update_fields_from_docstrings = lambda *_, **__: None
    try:
        yield
    finally:
        _fields._update_fields_from_docstrings = reads
