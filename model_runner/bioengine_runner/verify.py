"""Verify the files of a stored package with the hashes that were recorded at its import, before the files are used."""

from __future__ import annotations

import hashlib

from bioengine_contract.manifest import RDF
from bioengine_contract.package import Package
from bioengine_contract.package_errors import PackageUnreadable
from bioengine_contract.trust import code_of

from bioengine_runner.errors import WeightsDamaged


def verify_package(package: Package, weight_formats: list[str]) -> None:
    """Verify the description; if code of the package would run, every file except weights. Raises PackageUnreadable."""
    weights = {file for entry in package.manifest.weights.values() for file in entry.files}
    runs_code = any(code_of(package.manifest, name) for name in weight_formats)
    for name in [name for name in package.manifest.files if name not in weights] if runs_code else [RDF]:
        if problem := _problem(package, name):
            raise PackageUnreadable(package.id, f"{name}: {problem}")


def verify_weights(package: Package, weight_format: str) -> None:
    """Verify the files of the weights of one format. Raises WeightsDamaged."""
    for name in package.manifest.weights[weight_format].files:
        if problem := _problem(package, name):
            raise WeightsDamaged(package.id, weight_format, name, problem)


def _problem(package: Package, name: str) -> str | None:
    expected = package.manifest.stored_files.get(name, "not recorded")
    try:
        with open(package.folder / name, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    return None if found == expected else f"the SHA-256 is {found[:12]}…, it was {expected[:12]}… at import"
