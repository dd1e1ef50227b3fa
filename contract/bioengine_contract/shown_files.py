"""The `rdf` of a package for clients, in which test tensors, sample tensors, covers and documentation are URLs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from bioengine_contract.manifest import Manifest

LISTS = ("test_inputs", "test_outputs", "sample_inputs", "sample_outputs", "covers")
"""Keys of an `rdf` in the form of format 0.4 that list files to be shown; `documentation` names one more file."""


def rdf_of_stored(manifest: Manifest, url: str) -> dict[str, Any]:
    """The description of a stored package for clients, with the server's URLs of its files.

    Args:
        manifest: the package's manifest.
        url: the server's URL; empty: files keep the names that they have in the package.
    """
    if not url:
        return manifest.rdf
    base = f"{url.rstrip('/')}/models/{manifest.id}/{manifest.version}/files"
    return with_addresses(manifest.rdf, lambda source: f"{base}/{quote(source)}" if source in manifest.files else source)


def with_addresses(rdf: dict[str, Any], address_of: Callable[[str], str]) -> dict[str, Any]:
    """An `rdf` in the form of format 0.4 in which test tensors, sample tensors, covers and documentation are URLs.

    A model without sample tensors gets its test tensors as samples.

    Args:
        rdf: the description.
        address_of: returns the URL of a file, given its path within the package.
    """

    def address(source: str) -> str:
        return source if "://" in source else address_of(source)

    lists = {key: [address(source) for source in sources_of(rdf.get(key))] for key in LISTS if rdf.get(key) is not None}
    for kind in ("inputs", "outputs"):
        lists[f"sample_{kind}"] = lists.get(f"sample_{kind}") or lists.get(f"test_{kind}", [])
    documentation = [address(source) for source in sources_of([rdf.get("documentation")])]
    return {**rdf, **lists, **({"documentation": documentation[0]} if documentation else {})}


def sources_of(items: Any) -> list[str]:
    """The file names in a list whose entries are names or `{"source": ..., "sha256": ...}`."""
    sources = [item.get("source") if isinstance(item, dict) else item for item in items] if isinstance(items, list) else []
    return [source for source in sources if isinstance(source, str)]
