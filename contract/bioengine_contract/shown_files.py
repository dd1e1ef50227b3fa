"""Where clients find the files that show and test a package: an `rdf` whose test and sample tensors are named by URLs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from bioengine_contract.manifest import Manifest

LISTS = ("test_inputs", "test_outputs", "sample_inputs", "sample_outputs", "covers")
"""Keys of an `rdf` in the shape of format 0.4 that name files to be shown; `documentation` names one more."""


def rdf_of_stored(manifest: Manifest, url: str) -> dict[str, Any]:
    """The description of a stored package for clients, its files at the addresses that the server has for them.

    Args:
        manifest: of the package.
        url: of the server; empty: files are named as they are in the package.
    """
    if not url:
        return manifest.rdf
    base = f"{url.rstrip('/')}/models/{manifest.id}/{manifest.version}/files"
    return with_addresses(manifest.rdf, lambda source: f"{base}/{quote(source)}" if source in manifest.files else source)


def with_addresses(rdf: dict[str, Any], address_of: Callable[[str], str]) -> dict[str, Any]:
    """An `rdf` in the shape of format 0.4 whose test and sample tensors, covers and documentation are named by URLs.

    What is shown as a sample is the test's tensor where there is no other.

    Args:
        rdf: the description.
        address_of: the URL of a file by its path within the package.
    """

    def address(source: str) -> str:
        return source if "://" in source else address_of(source)

    lists = {key: [address(source) for source in sources_of(rdf.get(key))] for key in LISTS if rdf.get(key) is not None}
    for kind in ("inputs", "outputs"):
        lists[f"sample_{kind}"] = lists.get(f"sample_{kind}") or lists.get(f"test_{kind}", [])
    documentation = [address(source) for source in sources_of([rdf.get("documentation")])]
    return {**rdf, **lists, **({"documentation": documentation[0]} if documentation else {})}


def sources_of(items: Any) -> list[str]:
    """The sources in a list of names, or of `{"source", "sha256"}`."""
    sources = [item.get("source") if isinstance(item, dict) else item for item in items] if isinstance(items, list) else []
    return [source for source in sources if isinstance(source, str)]
