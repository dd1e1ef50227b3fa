"""Is a library still what it was when its private names were looked at?

Another version may do elsewhere what the server closes here, or keep elsewhere what the runner reads. So for each library whose
private names are used there is one module (`foreign` of the server and of the runner) with its exact version, and with a digest
of the source of each part that is changed or relied on.

    python -m bioengine_contract.library bioengine_server.foreign

prints what differs, with the digests to put in place of the known ones once it has been looked at.
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
"""What is changed or relied on, by its name: itself, or None where it is not there any more, and the digest of its source."""


@dataclass(frozen=True)
class Difference:
    """How an installed library differs from the one that was looked at.

    Attributes:
        found: its installed version, "none" where it is not installed.
        names: of the parts that have changed or are gone.
    """

    found: str
    names: list[str]

    def __str__(self) -> str:
        return f"{self.found} is installed" + (f", and differs in {', '.join(self.names[:5])}" if self.names else "")


def digest_of(part: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a function's or class's source."""
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]


def difference(library: str, expected: str, parts: Parts) -> Difference | None:
    """How a library differs from what is expected; None where it does not.

    Args:
        library: its name as a distribution, such as "hypha-rpc".
        expected: its version.
        parts: of it.
    """
    try:
        found = version(library)
    except PackageNotFoundError:
        found = "none"
    names = [name for name, (part, digest) in parts.items() if part is None or digest_of(part) != digest]
    return Difference(found, names) if found != expected or names else None


def changes(package: str) -> Iterator[str]:
    """A line for each part that differs, of all modules of a package of such modules."""
    for each in pkgutil.iter_modules(import_module(package).__path__):
        module = import_module(f"{package}.{each.name}")
        for name, (part, digest) in module.PARTS.items():
            now = "is not there any more" if part is None else digest_of(part)
            if now != digest:
                yield f"{module.__name__}: {name}: {digest} -> {now}"


if __name__ == "__main__":
    print(*changes(sys.argv[1]), sep="\n")
