"""Which names a package may have.

A name that clients use must not mean another package just because that package claims it. Names come from the admin (`--id`),
from the client that requested a download, or from the collection's own map. A name that a description claims for itself is only a
proposal: it is used if it is free, and only when the admin imports the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bioengine_contract.ids import is_name, is_storable_id, split_doi

from bioengine_server.store.errors import StoreError

_SERVER = Path(__file__).resolve().parents[1]

SHIPPED_PACKAGES = _SERVER / "packages"
"""The bundled packages, which are in every store: a folder for each id."""

_BENCH_PACKAGES = _SERVER / "bench" / "packages"


class NameTaken(StoreError):
    """The name already means something else."""

    code = "name_taken"

    def __init__(self, name: str, means: str, remedy: str) -> None:
        super().__init__(f"The name {name!r} already means {means}, so nothing was changed. {remedy}")


class ReservedName(StoreError):
    """The name belongs to a bundled model."""

    code = "reserved_name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The name {name!r} is reserved for a model that is bundled with this server, so the package was not stored. Import "
            "it under another name with --id ID."
        )


def shipped_package(name: str) -> Path | None:
    """The folder of the bundled package with this name (in any case), if there is one."""
    id = name.split("/", maxsplit=1)[0].casefold()
    for parent in (SHIPPED_PACKAGES, _BENCH_PACKAGES):
        for package in parent.iterdir() if parent.is_dir() else ():
            if package.name.casefold() == id:
                return package
    return None


def proposed_id(raw: dict[str, Any]) -> str | None:
    """The nickname or id in a description; None if it cannot be the id of a stored package."""
    for candidate in (_bioimageio(raw).get("nickname"), raw.get("id")):
        if isinstance(candidate, str) and candidate and "/" not in candidate:
            return candidate
    return None


def claimed_names(raw: dict[str, Any]) -> set[str]:
    """All names that a description claims: its id, its nickname, its DOI with and without the record number."""
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


def may_be_name(name: str) -> bool:
    """Whether a package may be called so: by an id, with a version or without, or by a DOI."""
    return is_doi(name) or "/" in name or is_storable_id(name)


def same_but_for_case(name: str, aliases: Mapping[str, str]) -> str | None:
    """Another name in the store that differs from `name` only in case: people, and some file systems, cannot tell them apart."""
    return next((other for other in aliases if other != name and other.casefold() == name.casefold()), None)


def _bioimageio(raw: dict[str, Any]) -> dict[str, Any]:
    return _dict(_dict(raw.get("config")).get("bioimageio"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
