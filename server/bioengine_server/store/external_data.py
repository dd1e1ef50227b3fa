"""Check at import where an ONNX file keeps its tensors: outside of it only in files that the package's description declares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from bioengine_contract.manifest import Weights

from bioengine_server.store.errors import StoreError
from bioengine_server.store.onnx_files import External, NotOnnx, external_tensors
from bioengine_server.untrusted import shown


class BadWeights(Exception):
    """The ONNX file may not be imported; the message says why, in complete sentences."""


class RefusedWeights(StoreError):
    code = "refused_weights"

    def __init__(self, source: Path | str, reason: str) -> None:
        super().__init__(f"The package {shown(source, 300)} was not imported: {reason}")


def check_onnx(folder: Path, weights: Weights, files: dict[str, str], raw: dict[str, Any]) -> Weights:
    """The entry in `model.json` for ONNX weights, with all files that they read. Raises BadWeights.

    Args:
        folder: the package's folder.
        weights: the entry in the description.
        files: SHA-256 of each file, by its path within the package.
        raw: the plain data of the description.
    """
    name = shown(weights.source)
    try:
        tensors = external_tensors(folder / weights.source)
    except NotOnnx as error:
        raise BadWeights(f"{name} is not an ONNX file: {error}. Get the package again from its source.") from error
    if weights.external_data is not None:
        for tensor in tensors:
            _file_of(weights.source, tensor, {weights.external_data}, files, folder)
        return weights
    declared = _named_files(raw)
    needed = sorted({_file_of(weights.source, tensor, declared, files, folder) for tensor in tensors})
    return replace(weights, external_data=needed[0] if needed else None, more_external_data=tuple(needed[1:]))


def paths_of(file: Path) -> list[str]:
    """The files that an ONNX file reads, as paths relative to its folder; empty for a file that `check_onnx` refuses."""
    try:
        return sorted({str(tensor.path) for tensor in external_tensors(file) if tensor.path is not None})
    except NotOnnx:
        return []


def is_alone(file: Path) -> bool:
    """Whether a file is ONNX that reads no other file, by no path whatever."""
    try:
        return not external_tensors(file)
    except NotOnnx:
        return False


def _file_of(onnx: str, tensor: External, declared: set[str], files: dict[str, str], folder: Path) -> str:
    """The file of the package that contains a tensor. Raises BadWeights."""
    what = f"{shown(onnx)} keeps tensors in {shown(tensor.location)!r}"
    if tensor.path is None:
        raise BadWeights(
            f"{what}, which is not a path within the package. Export the model with its tensors in a file beside it."
        )
    name = str(PurePosixPath(onnx).parent / tensor.path)
    if name not in declared:
        beside = "lies beside it and which " if name in files else ""
        raise BadWeights(
            f"{what}, which {beside}the description does not declare. Declare it in rdf.yaml: with `external_data: "
            f"{{source: {shown(name)}, sha256: ...}}` in `weights.onnx` (format 0.5, for a name that ends with .data), or among "
            "the `attachments`."
        )
    if name not in files:
        raise BadWeights(f"{what}, which is missing from the package. Add the file, or get the package again from its source.")
    size = (folder / name).stat().st_size
    numbers = [text for text in (tensor.offset, tensor.length) if text is not None]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers) or sum(map(int, numbers)) > size:
        raise BadWeights(f"{what}, beyond the end of this file of {size} bytes. Get the package again from its source.")
    return name


def _named_files(value: Any) -> set[str]:
    """Every text in a description. If a text is the path of a file in the package, the description declares that file."""
    if isinstance(value, dict):
        return set().union(*(_named_files(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_named_files(item) for item in value))
    return {value.removeprefix("./")} if isinstance(value, str) else set()
