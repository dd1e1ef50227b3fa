"""Which names a package may have.

A name that clients use must not come to mean another package because a package says so. Names come from the admin (`--id`), from
the client that asked (a download), or from the collection's own map. What a description says of itself is a proposal: it
is taken where it is free, and by an import of the admin's only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioengine_contract.ids import is_name, split_doi

from bioengine_server.store.errors import StoreError

_SERVER = Path(__file__).resolve().parents[1]

SHIPPED_PACKAGES = _SERVER / "packages"
"""Packages that come with the project and are in every store, one folder for each id."""

_BENCH_PACKAGES = _SERVER / "bench" / "packages"


class NameTaken(StoreError):
    """A name that means something else already."""

    code = "name_taken"

    def __init__(self, name: str, means: str, remedy: str) -> None:
        super().__init__(f"The name {name!r} means {means}, so nothing was changed. {remedy}")


class ReservedName(StoreError):
    """The name of a model that comes with the project."""

    code = "reserved_name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The name {name!r} is reserved for a model that comes with this server, and the package is another one, so it was "
            "not stored. Import it under another name with --id ID."
        )


def shipped_package(name: str) -> Path | None:
    """The folder of the package that comes with the project under this name (in whatever case), if there is one."""
    id = name.split("/", maxsplit=1)[0].casefold()
    for parent in (SHIPPED_PACKAGES, _BENCH_PACKAGES):
        for package in parent.iterdir() if parent.is_dir() else ():
            if package.name.casefold() == id:
                return package
    return None


def proposed_id(raw: dict[str, Any]) -> str | None:
    """The nickname or id in a description, where it can be an id of ours."""
    for candidate in (_bioimageio(raw).get("nickname"), raw.get("id")):
        if isinstance(candidate, str) and candidate and "/" not in candidate:
            return candidate
    return None


def claimed_names(raw: dict[str, Any]) -> set[str]:
    """What else a description says that its package is called: its id, its nickname, its DOI with and without the record."""
    deposit = _dict(_dict(raw.get("config")).get("_deposit"))
    config = _bioimageio(raw)
    names = set()
    for candidate in (raw.get("id"), config.get("nickname"), config.get("doi"), deposit.get("doi")):
        if isinstance(candidate, str) and (doi := split_doi(candidate)):
            names |= {candidate, doi[0]}
        elif isinstance(candidate, str) and is_name(candidate):
            names.add(candidate)
    return names


def is_doi(name: str) -> bool:
    return split_doi(name) is not None


def same_but_for_case(name: str, aliases: Mapping[str, str]) -> str | None:
    """Another name of the store that differs from `name` in its case alone: people, and some file systems, take both for one."""
    return next((other for other in aliases if other != name and other.casefold() == name.casefold()), None)


def _bioimageio(raw: dict[str, Any]) -> dict[str, Any]:
    return _dict(_dict(raw.get("config")).get("bioimageio"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
