"""The files of a stored package that clients may download: those that show and test the model."""

from __future__ import annotations

from bioengine_contract.manifest import Manifest
from bioengine_contract.shown_files import LISTS, sources_of

from bioengine_server.store.named_files import Role, named_files


def shown_files(manifest: Manifest) -> set[str]:
    """The files that the description lists for display and tests, but never weights or code."""
    rdf = manifest.rdf
    named = {source for key in LISTS for source in sources_of(rdf.get(key))} | set(sources_of([rdf.get("documentation")]))
    weights = {file for entry in manifest.weights.values() for file in entry.files}
    computing = {file.source for file in named_files(rdf) if file.computes or file.role is Role.DEPENDENCIES}
    return (named & manifest.files.keys()) - weights - computing
