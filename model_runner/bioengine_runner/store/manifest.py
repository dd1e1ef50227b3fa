"""`model.json`, as the runner reads it: all that is known of a package without opening it with bioimageio.

Written once, at import, by `bioengine_server.store.manifest`. Light on purpose: the routers import it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bioengine_runner.errors import PackageUnreadable

FILE_NAME = "model.json"
RDF = "rdf.yaml"
FORMAT = 1

# Types of axes that can be padded and cut; of the others, each size means something.
IMAGE_AXES = ("space", "time")


@dataclass(frozen=True)
class SizeReference:
    """A size that follows another input's axis: size = of that axis * scale + offset (pixels)."""

    tensor: str
    axis: str
    scale: float
    offset: int


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor. Sizes in pixels (samples, channels): `min` + n * `step`; step 0: exactly `min`."""

    id: str
    type: str
    min: int
    step: int
    reference: SizeReference | None = None

    def describe(self) -> str:
        if self.reference is not None:
            return f"{self.id}: as {self.reference.axis} of '{self.reference.tensor}'"
        if self.type == "batch":
            return f"{self.id}: any"
        if self.step == 0:
            return f"{self.id}: {self.min}"
        if self.step == 1:
            return f"{self.id}: {self.min} or more"
        return f"{self.id}: {self.min} + n*{self.step}"


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model. `optional`: an input that a request may leave out."""

    id: str
    dtype: str
    axes: tuple[Axis, ...]
    optional: bool = False

    def describe_axes(self) -> str:
        return ", ".join(axis.describe() for axis in self.axes)

    @property
    def batch_axis(self) -> int | None:
        return next((index for index, axis in enumerate(self.axes) if axis.type == "batch"), None)

    @property
    def sample(self) -> Tensor:
        """The same without its batch axis."""
        return replace(self, axes=tuple(axis for axis in self.axes if axis.type != "batch"))


@dataclass(frozen=True)
class Weights:
    """Weights of one format: the file, by its path within the package, its SHA-256, and the files of its tensors if not in it."""

    source: str
    sha256: str
    external_data: str | None = None
    more_external_data: Sequence[str] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return (self.source, *filter(None, (self.external_data, *self.more_external_data)))


@dataclass(frozen=True)
class Manifest:
    """A stored package, from its `model.json`. `fingerprint` changes when the package is imported again.

    `code`: Python code of its own that would run with weights of any format. `files`: the SHA-256 of each file at import.
    """

    folder: Path
    fingerprint: str
    id: str
    version: str
    is_default: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: dict[str, Weights]
    unsupported_weights: tuple[str, ...]
    code: tuple[str, ...]
    files: dict[str, str]
    triton_config: dict[str, Any]
    rdf: dict[str, Any]


def read(folder: Path, is_default: bool) -> Manifest:
    """The manifest of the package in `folder`. Raises PackageUnreadable.

    Args:
        folder: `<store>/<id>/<version>`.
        is_default: whether it is the version that the plain id names.
    """
    try:
        return _read(folder, is_default, (folder / FILE_NAME).stat().st_mtime_ns)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackageUnreadable(folder.parent.name, f"{FILE_NAME}: {error}") from error


@functools.lru_cache(maxsize=256)
def _read(folder: Path, is_default: bool, changed: int) -> Manifest:
    document = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    if document["format"] != FORMAT:
        raise ValueError(f"it has the format {document['format']}, this version reads {FORMAT}")
    return Manifest(
        folder=folder,
        fingerprint=f"{changed}-{document['imported']}",
        id=document["id"],
        version=document["version"],
        is_default=is_default,
        inputs=tuple(_tensor(item) for item in document["inputs"]),
        outputs=tuple(_tensor(item) for item in document["outputs"]),
        weights={name: Weights(**item) for name, item in document["weights"].items()},
        unsupported_weights=tuple(document["unsupported_weights"]),
        code=tuple(document["code"]),
        files=document["files"],
        triton_config=document["triton_config"],
        rdf=document["rdf"],
    )


def _tensor(item: dict[str, Any]) -> Tensor:
    return Tensor(item["id"], item["dtype"], tuple(_axis(axis) for axis in item["axes"]), item.get("optional", False))


def _axis(item: dict[str, Any]) -> Axis:
    reference = item["reference"]
    return Axis(
        id=item["id"],
        type=item["type"],
        min=item["min"],
        step=item["step"],
        reference=None if reference is None else SizeReference(**reference),
    )
