"""Files of a stored package against the hashes that were recorded at its import, before anything is made of them."""

from __future__ import annotations

import hashlib

from bioengine_runner.errors import PackageUnreadable, WeightsDamaged
from bioengine_runner.store.manifest import RDF, Manifest
from bioengine_runner.store.trust import code_of


def verify_package(package: Manifest, weight_formats: list[str]) -> None:
    """Verify the description, and, where code of the package would run, all but its weights. Raises PackageUnreadable."""
    weights = {file for entry in package.weights.values() for file in entry.files}
    runs_code = any(code_of(package, name) for name in weight_formats)
    for name in [name for name in package.files if name not in weights] if runs_code else [RDF]:
        if problem := _problem(package, name):
            raise PackageUnreadable(package.id, f"{name}: {problem}")


def verify_weights(package: Manifest, weight_format: str) -> None:
    """Verify the files of the weights of one format. Raises WeightsDamaged."""
    for name in package.weights[weight_format].files:
        if problem := _problem(package, name):
            raise WeightsDamaged(package.id, weight_format, name, problem)


def _problem(package: Manifest, name: str) -> str | None:
    expected = package.files.get(name, "not recorded")
    try:
        with open(package.folder / name, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    return None if found == expected else f"the SHA-256 is {found[:12]}…, it was {expected[:12]}… at import"
