"""What the store keeps of a conversion, beside the package that it was made from.

    converted.onnx      the weights
    converted.json      what made them, when, from which file, and how far their outputs are from the original's

The manifest lists the weights as `onnx`, with `converted_from`. Its `files`, and so the entry of trust and the comparison with
another package, stay those of the package.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from pathlib import Path
from typing import Any

from bioengine_contract.manifest import FILE_NAME, Manifest, Weights
from bioengine_contract.store import read_aliases
from bioengine_contract.weights import CONVERTED, CONVERTED_OPSET
from pydantic import BaseModel, ValidationError

from bioengine_server.store import layout
from bioengine_server.store.package import CONVERSION


class Conversion(BaseModel):
    """The content of `converted.json`.

    `versions`: of the libraries that made the weights, and of the one that runs them. `differences`: for each sample, the largest
    absolute difference between an output of the original and of the converted weights. Sample 0 is the test image.
    """

    converted_from: str
    source_sha256: str
    made: datetime.datetime
    versions: dict[str, str]
    differences: list[float]
    seconds: float


def with_converted(manifest: Manifest, file: Path, converted_from: str) -> Manifest:
    """The manifest of a package together with the converted weights in `file`."""
    with open(file, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    entry = Weights(source=CONVERTED, sha256=sha256, converted_from=converted_from)
    size = manifest.size + file.stat().st_size
    return manifest.model_copy(update={"weights": {**manifest.weights, "onnx": entry}, "size": size})


def without_converted(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest of the package alone. `folder`: where the package is."""
    made = {name: weights for name, weights in manifest.weights.items() if weights.converted_from is not None}
    if not made:
        return manifest
    weights = {name: weights for name, weights in manifest.weights.items() if name not in made}
    size = sum((folder / each.source).stat().st_size for each in made.values() if (folder / each.source).is_file())
    return manifest.model_copy(update={"weights": weights, "size": manifest.size - size})


def put_converted(store: Path, manifest: Manifest, file: Path, conversion: Conversion) -> bool:
    """Move converted weights to a package of the store. Returns whether that is still the same package.

    Args:
        store: the store's folder.
        manifest: of the package with the converted weights.
        file: the weights; on the store's file system.
        conversion: how they were made.
    """
    folder = store / manifest.id / manifest.version
    with layout.lock(store):
        if (now := still_there(folder, manifest)) is None:
            return False
        # If this is cut off, the package is not converted: never weights that are not those of the manifest.
        layout.write_json(folder / FILE_NAME, without_converted(now, folder).model_dump(mode="json"))
        os.replace(file, folder / CONVERTED)
        layout.write_json(folder / CONVERSION, conversion.model_dump(mode="json"))
        content = {**manifest.model_dump(mode="json"), "imported": now.model_dump(mode="json")["imported"]}
        layout.write_json(folder / FILE_NAME, content)
        layout.write_aliases(store, dict(read_aliases(store)))  # a running server notices the change by this file
    return True


def still_there(folder: Path, manifest: Manifest) -> Manifest | None:
    """The present manifest of a package in the store, if it has still the files of this one; None otherwise."""
    try:
        now = Manifest.model_validate_json((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return now if now.files == manifest.files else None


def declare_converted(raw: dict[str, Any], manifest: Manifest) -> dict[str, str]:
    """Add the converted weights of a package to the plain data of its description.

    Returns the names that the files have for the description, by their names in the store.
    """
    names = {}
    for format, weights in manifest.weights.items():
        if weights.converted_from is not None:
            names[weights.source] = name = f"{format}-from-{weights.converted_from}.onnx"
            entry = {"source": name, "sha256": weights.sha256, "opset_version": CONVERTED_OPSET, "parent": weights.converted_from}
            raw["weights"] = {**raw["weights"], format: entry}
    return names


def read_conversion(folder: Path) -> Conversion | None:
    """How the converted weights of a package were made; None if it has none."""
    with contextlib.suppress(OSError, ValidationError):
        return Conversion.model_validate_json((folder / CONVERSION).read_text(encoding="utf-8"))
    return None


def keep_converted(old_folder: Path, old: Manifest | None, folder: Path, manifest: Manifest) -> Manifest:
    """Take the converted weights of an earlier import along, if it was an import of the same package.

    Args:
        old_folder, old: the earlier import; None if there is none, or it cannot be read.
        folder, manifest: the new import.

    Returns the manifest, with the weights that were taken along.
    """
    if old is None or old.files != manifest.files or read_conversion(old_folder) is None:
        return manifest
    made: dict[str, Any] = {name: each for name, each in old.weights.items() if each.converted_from is not None}
    if not made or made.keys() & manifest.weights.keys() or not (old_folder / CONVERTED).is_file():
        return manifest
    for name in (CONVERTED, CONVERSION):
        layout.link(old_folder / name, folder / name)
    (weights,) = made.values()
    return with_converted(manifest, folder / CONVERTED, weights.converted_from)
