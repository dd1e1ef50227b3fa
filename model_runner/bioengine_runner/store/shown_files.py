"""Where clients find the files that show and test a stored package: the server that they ask has them at addresses of its own.

`bioengine_server.web.model_files` answers there; `bioengine_server.store.shown_files` does the same for models that are only in
the collection.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from bioengine_runner.store.manifest import Manifest

_LISTS = ("test_inputs", "test_outputs", "sample_inputs", "sample_outputs", "covers")


def rdf_with_addresses(package: Manifest, url: object) -> dict[str, Any]:
    """The package's description for clients, in which test and sample tensors, covers and documentation are named by URLs.

    What is shown as a sample is the test's tensor where there is no other.

    Args:
        package: of the store.
        url: of the server, as it tells it in the request; without one, files are named as they are in the package.
    """
    rdf = package.rdf
    if not isinstance(url, str) or not url:
        return rdf
    base = f"{url.rstrip('/')}/models/{package.id}/{package.version}/files"

    def address(source: str) -> str:
        return f"{base}/{quote(source)}" if source in package.files else source

    lists = {key: [address(source) for source in _sources(rdf.get(key))] for key in _LISTS if rdf.get(key) is not None}
    for kind in ("inputs", "outputs"):
        lists[f"sample_{kind}"] = lists.get(f"sample_{kind}") or lists.get(f"test_{kind}", [])
    documentation = [address(source) for source in _sources([rdf.get("documentation")])]
    return {**rdf, **lists, **({"documentation": documentation[0]} if documentation else {})}


def _sources(items: Any) -> list[str]:
    """The sources in a list of names, or of `{"source", "sha256"}`."""
    sources = [item.get("source") if isinstance(item, dict) else item for item in items] if isinstance(items, list) else []
    return [source for source in sources if isinstance(source, str)]
