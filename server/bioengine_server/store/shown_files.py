"""The files of a package that show and test it: which clients may have, and where their addresses stand in the `rdf`.

The runner puts in the addresses of stored models (`bioengine_runner.store.shown_files`), which this server answers
(`bioengine_server.web.model_files`); here are those of models that are only in the collection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bioengine_server.store.manifest import Manifest
from bioengine_server.store.named_files import Role, is_url, named_files

_LISTS = ("test_inputs", "test_outputs", "sample_inputs", "sample_outputs", "covers")


def with_addresses(rdf: dict[str, Any], address_of: Callable[[str], str]) -> dict[str, Any]:
    """An `rdf` in the shape of format 0.4 whose test and sample tensors, covers and documentation are named by URLs.

    What is shown as a sample is the test's tensor where there is no other.

    Args:
        address_of: the URL of a file by its path within the package.
    """

    def address(source: str) -> str:
        return source if is_url(source) else address_of(source)

    lists = {key: [address(source) for source in sources_of(rdf.get(key))] for key in _LISTS if rdf.get(key) is not None}
    for kind in ("inputs", "outputs"):
        lists[f"sample_{kind}"] = lists.get(f"sample_{kind}") or lists.get(f"test_{kind}", [])
    documentation = [address(source) for source in sources_of([rdf.get("documentation")])]
    return {**rdf, **lists, **({"documentation": documentation[0]} if documentation else {})}


def shown_files(manifest: Manifest) -> set[str]:
    """The files that a stored package's description names to be shown; no weights and no code, whatever it says."""
    rdf = manifest.rdf
    named = {source for key in _LISTS for source in sources_of(rdf.get(key))} | set(sources_of([rdf.get("documentation")]))
    weights = {
        file for entry in manifest.weights.values() for file in (entry.source, entry.external_data, *entry.more_external_data)
    }
    computing = {file.source for file in named_files(rdf) if file.computes or file.role is Role.DEPENDENCIES}
    return (named & manifest.files.keys()) - weights - computing


def sources_of(items: Any) -> list[str]:
    """The sources in a list of names, or of `{"source", "sha256"}`."""
    sources = [item.get("source") if isinstance(item, dict) else item for item in items] if isinstance(items, list) else []
    return [source for source in sources if isinstance(source, str)]
