"""`model.json`: what the rest of the stack knows of a package without opening it. Written once, at import.

Made by `bioengine_server.store.manifest_builder`, read by `bioengine_runner.store.manifest`.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import BaseModel

FILE_NAME = "model.json"

RUNNABLE_WEIGHTS = ("onnx", "torchscript", "pytorch_state_dict")


class SizeReference(BaseModel):
    """A size that follows another axis: size = that axis' size * scale + offset (pixels)."""

    tensor: str
    axis: str
    scale: float
    offset: int


class Axis(BaseModel):
    """One axis. Sizes in pixels, channels or samples: `min` + n * `step`; step 0: exactly `min`."""

    id: str
    type: str
    min: int
    step: int
    reference: SizeReference | None = None


class Tensor(BaseModel):
    """An input or output."""

    id: str
    dtype: str
    axes: list[Axis]
    optional: bool = False
    """Of an input: whether a request may leave it out."""


class Weights(BaseModel):
    """Weights of one format: the file, by its path within the package, and the files that hold its tensors if it does not."""

    source: str
    sha256: str
    external_data: str | None = None
    more_external_data: list[str] = []


class Manifest(BaseModel):
    """The content of `model.json`."""

    format: Literal[1] = 1
    id: str
    version: str
    name: str
    imported: datetime.datetime
    origin: str
    """Where it came from: a file, or the URL of its description."""
    size: int
    """Bytes of the whole package."""
    inputs: list[Tensor]
    outputs: list[Tensor]
    weights: dict[str, Weights]
    """Those that the runner can run, some of them only where the admin trusts the package, in the order of the description."""
    unsupported_weights: list[str]
    code: list[str]
    """Python of its own that the package would run with weights of any format; empty for most."""
    files: dict[str, str]
    """SHA-256 of every file at import."""
    test_inputs: list[str]
    test_outputs: list[str]
    triton_config: dict[str, Any]
    rdf: dict[str, Any]
    """The description in the 0.4 shape that older clients read."""
