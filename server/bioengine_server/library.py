"""Other libraries' inner names, which this server changes: known by what they were when they were looked at, or no start.

A newer version may do elsewhere what is closed here. So each module that touches inner names of a library lists them, with a
digest of the source of each, and the exact version; docs/developers.md says how to move one.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bioengine_server.errors import StackError


class LibraryChanged(StackError):
    code = "library_changed"

    def __init__(self, library: str, expected: str, found: str, names: list[str]) -> None:
        differs = f", and differs in {', '.join(names[:5])}" if names else ""
        super().__init__(
            f"This server needs {library} {expected}, whose inner parts it secures; {found} is installed{differs}. "
            "`./bioengine setup --again` builds the environments anew, as they were tested; then start again."
        )


def digest_of(part: Any) -> str:
    """What a function or class is known by: the beginning of its source's SHA-256."""
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]


def require(library: str, expected: str, parts: Mapping[str, tuple[Any, str]]) -> None:
    """Raises LibraryChanged unless all is as expected.

    Args:
        library: its name as a distribution.
        expected: its version.
        parts: by name, what is changed or relied on, and its digest. None for what is not there any more.
    """
    try:
        found = version(library)
    except PackageNotFoundError:
        found = "none"
    changed = [name for name, (part, digest) in parts.items() if part is None or digest_of(part) != digest]
    if found != expected or changed:
        raise LibraryChanged(library, expected, found, changed)


def main() -> None:
    """Print what differs, with the digests to put in place of the known ones once it has been looked at."""
    for name in ("bioengine_server.hypha.rpc_limits", "bioengine_server.hypha.hypha_parts", "bioengine_server.gateway.rpc"):
        for part, (found, digest) in import_module(name)._PARTS.items():
            now = "is not there any more" if found is None else digest_of(found)
            if now != digest:
                print(f"{name}: {part}: {digest} -> {now}")


if __name__ == "__main__":
    main()
