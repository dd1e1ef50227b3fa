"""Check that the libraries whose private names are used are still the versions that were reviewed.

In another version, a function that the server replaces may no longer be called, or what the runner reads may have moved. So for
each library whose private names are used there is one module (in `foreign` of the server and of the runner) with its exact
version, and with a digest of the source of each part that is changed or relied on.

    python -m bioengine_contract.library bioengine_server.foreign

prints what differs, with the new digests. After a review of the differences they replace the old ones.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Parts = Mapping[str, tuple[Any, str]]
"""The parts of a library that are changed or relied on: from a part's name to the part (None if it no longer exists) and the
expected digest of its source."""


@dataclass(frozen=True)
class Difference:
    """How an installed library differs from the version that was reviewed.

    Attributes:
        found: the installed version; "none" if it is not installed.
        names: the names of the parts that have changed or no longer exist.
    """

    found: str
    names: list[str]

    def __str__(self) -> str:
        return f"{self.found} is installed" + (f", and differs in {', '.join(self.names[:5])}" if self.names else "")


def digest_of(part: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a function's or class's source."""
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]


def difference(library: str, expected: str, parts: Parts) -> Difference | None:
    """How a library differs from the version that was reviewed; None if it does not differ.

    Args:
        library: the name of its distribution, such as "hypha-rpc".
        expected: the version that was reviewed.
        parts: its parts that are changed or relied on.
    """
    try:
        found = version(library)
    except PackageNotFoundError:
        found = "none"
    names = [name for name, (part, digest) in parts.items() if part is None or digest_of(part) != digest]
    return Difference(found, names) if found != expected or names else None


def changes(package: str) -> Iterator[str]:
    """One line for each part that differs, for all modules of a `foreign` package."""
    for each in pkgutil.iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{each.name}")
        for name, (part, digest) in module.PARTS.items():
            now = "no longer exists" if part is None else digest_of(part)
            if now != digest:
                yield f"{module.__name__}: {name}: {digest} -> {now}"


if __name__ == "__main__":
    print(*changes(sys.argv[1]), sep="\n")
