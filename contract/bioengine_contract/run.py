"""From a request and its package to the input tensors of the model's own Triton model, and from its outputs to the result.

request + package -> run: model, arrays, tile -> (Triton) -> outputs -> result
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bioengine_contract.errors import BioEngineError
from bioengine_contract.labels import LABELS, LabelMethod, NoLabels, labels_of_output, method_for
from bioengine_contract.manifest import Manifest, Tensor
from bioengine_contract.package import Package
from bioengine_contract.request import RunRequest
from bioengine_contract.shown_files import rdf_of_stored
from bioengine_contract.tensors.finite import warnings_of_inputs, warnings_of_outputs
from bioengine_contract.tensors.fit import fit_inputs, fit_outputs, fit_tile
from bioengine_contract.tensors.readable import readable
from bioengine_contract.tensors.resized import warnings_of_sizes
from bioengine_contract.triton_model import TritonModel, triton_model

TILE = "tile"
"""Parameter of Triton's inference request: the tile size for each axis, as JSON."""

OUTPUTS = "outputs"
"""Parameter of Triton's inference request: the names of the outputs that are wanted, as JSON, if they are not all."""

FINGERPRINT = "fingerprint"
"""Parameter of Triton's inference request: the fingerprint of the package that the inputs were prepared for."""


@dataclass(frozen=True)
class Run:
    """A run of a model on arrays that fit it: one for each input, None for an optional one that was left out."""

    model: TritonModel
    arrays: list[np.ndarray | None]
    tile: dict[str, int] | None
    warnings: tuple[str, ...]
    """Warnings about the inputs, for the client."""
    is_spoilt: bool
    """Whether an input contains values that are not finite."""
    output_names: list[str]
    """The outputs that the client wants, in the model's order."""
    labels: LabelMethod | None = None
    """How objects are found, if the client wants labels instead of the first output."""

    @classmethod
    def prepare(cls, package: Package, request: RunRequest, trusted: frozenset[str]) -> Run:
        """Fit a request to its package.

        Raises RequestError: about the package (PackageRunsCode, NoLabels, ...) or the inputs (Misfit).
        """
        manifest, options = package.manifest, request.options
        model = triton_model(package, options.get("weight_format"), trusted)
        labels = method_for(manifest) if options.get("labels") else None
        warnings: list[str] = []
        arrays = fit_inputs(manifest, request.inputs, options.get("axes"), warnings)
        tile, outputs = fit_tile(manifest, options.get("tile")), fit_outputs(manifest, options.get("outputs"))
        spoilt = warnings_of_inputs(dict(zip((spec.id for spec in manifest.inputs), arrays)))
        if labels is not None and manifest.outputs[0].id not in outputs:
            raise NoLabels(manifest.id, f"`outputs` leaves out '{manifest.outputs[0].id}', in which the objects are found")
        resized = warnings_of_sizes(manifest, [None if array is None else array.shape for array in arrays], tile, outputs)
        return cls(model, arrays, tile, (*warnings, *spoilt, *resized), bool(spoilt), outputs, labels)

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of Triton's inference request."""
        tile = {} if self.tile is None else {TILE: json.dumps(self.tile)}
        has_all = len(self.output_names) == len(self.model.manifest.outputs)
        outputs = {} if has_all else {OUTPUTS: json.dumps(self.output_names)}
        labels = {} if self.labels is None else {LABELS: self.labels.to_json()}
        return {FINGERPRINT: self.model.package.fingerprint, **tile, **outputs, **labels}

    def result(
        self, task_id: str, outputs: Sequence[np.ndarray], seconds: float, weight_format: str, device: str
    ) -> dict[str, Any]:
        """The result that the client gets.

        Args:
            task_id: identifies the request, also in the log.
            outputs: the model's outputs, in the order of `output_names`.
            seconds: how long the run took.
            weight_format, device: which weights the model's process has opened, and where it computes. For weights that were
                converted, the result says so.
        """
        if self.labels is not None:
            outputs = [labels_of_output(self.model.manifest, outputs[0]), *outputs[1:]]
        result: dict[str, Any] = {
            "task_id": task_id,
            "outputs": [readable(output) for output in outputs],
            "execution_time": seconds,
            "success": True,
            "weight_format": self.model.manifest.named_weights(weight_format),
            "device": device,
        }
        if warnings := [*self.warnings, *warnings_of_outputs(dict(zip(self.output_names, outputs)), self.is_spoilt)]:
            result["warnings"] = warnings
        return result


def wanted_outputs(manifest: Manifest, parameters: Mapping[str, str]) -> list[Tensor]:
    """The outputs that an inference request with these parameters asks for, in the model's order."""
    names = json.loads(parameters[OUTPUTS]) if OUTPUTS in parameters else None
    return [spec for spec in manifest.outputs if names is None or spec.id in names]


def description(package: Package, files_url: str) -> dict[str, Any]:
    """The answer to a request without inputs. `files_url`: the server's URL, if it serves the files of packages; else empty."""
    return {"rdf": rdf_of_stored(package.manifest, files_url)}


def failure(error: BioEngineError, task_id: str, details: str = "") -> dict[str, Any]:
    """The answer to a request that cannot be served. `details`: of an error in the server itself, if its settings allow them."""
    return {"task_id": task_id, "success": False, "error": f"{error}{details}", "code": error.code}
