"""A file of a stored package, by the name that a path contains: only what may be served, and never where a link leads."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from urllib.parse import unquote_to_bytes


def stored_file(folder: Path, encoded: str, allowed: Container[str]) -> Path | None:
    """The file, if there is one.

    Args:
        folder: of the package.
        encoded: the file's name, percent-encoded.
        allowed: the names of the files that may be served.

    Raises ValueError for a name that is not UTF-8.
    """
    name = unquote_to_bytes(encoded).decode()
    if name not in allowed:
        return None
    file = folder / name
    return file if file.is_file() and not file.is_symlink() else None
