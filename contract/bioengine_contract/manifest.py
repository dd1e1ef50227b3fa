"""The manifest `model.json`: all that server and runner need to know about a package without opening it with bioimageio.

The server's store writes it once, at import (`bioengine_server.store.manifest_builder`).
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bioengine_contract.axes import BATCH
from bioengine_contract.weights import CONVERTIBLE, RUN_CODE, RUNNABLE

FILE_NAME = "model.json"
RDF = "rdf.yaml"

MAX_SEAM = 0.01
"""The largest difference at the seams of tiles that counts as none, as a share of the output's range."""

# Scales are quotients of small numbers; as floats they are not, quite.
_MAX_DENOMINATOR = 4096


@dataclass(frozen=True)
class SizeReference:
    """A size that depends on an axis of another tensor, usually an input: size of that axis * scale + offset, in pixels."""

    tensor: str
    axis: str
    scale: float
    offset: int

    @property
    def exact_scale(self) -> Fraction:
        return Fraction(self.scale).limit_denominator(_MAX_DENOMINATOR)

    def of(self, size: int) -> int:
        """The size where that of the other axis is `size`."""
        return math.floor(size * self.exact_scale) + self.offset


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor. Sizes in pixels (samples, channels): `min` + n * `step`; step 0: exactly `min`.

    `halo`: for an output, the number of pixels at either end that are wrong because the image, or the tile, ends there.
    """

    id: str
    type: str
    min: int
    step: int
    reference: SizeReference | None = None
    halo: int = 0

    def describe(self) -> str:
        """The axis and its sizes as text for error messages: "y: 64 + n*16"."""
        if self.reference is not None:
            return f"{self.id}: as {self.reference.axis} of '{self.reference.tensor}'"
        if self.type == BATCH:
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
        return next((index for index, axis in enumerate(self.axes) if axis.type == BATCH), None)

    @property
    def sample(self) -> Tensor:
        """This tensor without its batch axis."""
        return replace(self, axes=tuple(axis for axis in self.axes if axis.type != BATCH))


@dataclass(frozen=True)
class Weights:
    """Weights of one format: the file (a path within the package), its SHA-256, and any further files that hold its tensors.

    `converted_from`: the format of the package's own weights from which the store has made these; None for those of the package.
    """

    source: str
    sha256: str
    external_data: str | None = None
    more_external_data: tuple[str, ...] = ()
    converted_from: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return (self.source, *filter(None, (self.external_data, *self.more_external_data)))


@dataclass(frozen=True)
class MeasuredHalo:
    """The halo of a model that takes images of one size and declares none, measured at import (`bioengine_runner.seams`).

    `pixels`: by image axis, the pixels of the input at a cut that depend on what is beyond it. `difference`: how much results
    farther away still depend on it, as a share of the output's range. `weight_format`: what it was measured with. `problem`:
    why it was not measured; empty if it was.
    """

    pixels: dict[str, int]
    difference: float
    weight_format: str
    problem: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether tiles give what the whole image would give, if the model took it."""
        return self.difference < MAX_SEAM


class Manifest(BaseModel):
    """The content of `model.json`."""

    model_config = ConfigDict(frozen=True)

    format: Literal[2] = 2
    """Version of the manifest's format. Version 1 lacks the halo, and the output sizes of models in format 0.4; the store
    replaces such manifests."""
    id: str
    version: str
    name: str
    imported: datetime.datetime
    origin: str
    """Where the package came from: a file, or the URL of its description."""
    size: int
    """Size of the whole package in bytes."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    halo: MeasuredHalo | None = None
    """None if the description declares a halo, if sizes are free, and for packages of an earlier version."""
    weights: dict[str, Weights]
    """The weights that can be run (some only if the admin trusts the package) or converted, in the order of the description."""
    unsupported_weights: tuple[str, ...]
    code: tuple[str, ...]
    """Python code in the package that would run with weights of any format; empty for most packages."""
    files: dict[str, str]
    """The SHA-256 that each file of the package had at import; without what the store has made from them."""
    unpinned: tuple[str, ...] = ()
    """The files of weights for which the description gives no SHA-256: only what they were at import is known."""
    test_inputs: tuple[str, ...] = ()
    test_outputs: tuple[str, ...] = ()
    triton_config: dict[str, Any]
    rdf: dict[str, Any]
    """The description in the form of format 0.4, which older clients read."""

    @property
    def stored_files(self) -> dict[str, str]:
        """The SHA-256 of each file of the package, and of weights that were converted from it."""
        made = [weights for weights in self.weights.values() if weights.converted_from is not None]
        return self.files | {weights.source: weights.sha256 for weights in made}

    @property
    def convertible(self) -> str | None:
        """The format of the package's weights from which ONNX weights are to be made; None if it has others, or none of these."""
        own = {name for name, weights in self.weights.items() if weights.converted_from is None}
        if own & set(RUNNABLE) - set(RUN_CODE):
            return None
        return next((name for name in CONVERTIBLE if name in own), None)

    def named_weights(self, weight_format: str) -> str:
        """A format of the package's weights for people: `onnx`, or `onnx (converted from pytorch_state_dict)`."""
        weights = self.weights.get(weight_format)
        if weights is None or weights.converted_from is None:
            return weight_format
        return f"{weight_format} (converted from {weights.converted_from})"
