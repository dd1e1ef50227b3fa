"""From a request and its package to the input tensors of the model's own Triton model, and from its outputs to the result.

request + package -> run: model, arrays, tile -> (Triton) -> outputs -> result
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bioengine_contract.errors import BioEngineError
from bioengine_contract.package import Package
from bioengine_contract.request import RunRequest
from bioengine_contract.shown_files import rdf_of_stored
from bioengine_contract.tensors.finite import warnings_of_inputs, warnings_of_outputs
from bioengine_contract.tensors.fit import fit_inputs, fit_tile
from bioengine_contract.tensors.readable import readable
from bioengine_contract.triton_model import TritonModel, triton_model

TILE = "tile"
"""Parameter of Triton's inference request: the tile size for each axis, as JSON."""

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

    @classmethod
    def prepare(cls, package: Package, request: RunRequest, trusted: frozenset[str]) -> Run:
        """Fit a request to its package. Raises RequestError: about the package (PackageRunsCode, ...) or the inputs (Misfit)."""
        manifest, options = package.manifest, request.options
        model = triton_model(package, options.get("weight_format"), trusted)
        warnings: list[str] = []
        arrays = fit_inputs(manifest, request.inputs, options.get("axes"), warnings)
        tile = fit_tile(manifest, options.get("tile"))
        spoilt = warnings_of_inputs(dict(zip((spec.id for spec in manifest.inputs), arrays)))
        return cls(model, arrays, tile, (*warnings, *spoilt), bool(spoilt))

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of Triton's inference request."""
        tile = {} if self.tile is None else {TILE: json.dumps(self.tile)}
        return {FINGERPRINT: self.model.package.fingerprint, **tile}

    @property
    def output_names(self) -> list[str]:
        return [spec.id for spec in self.model.manifest.outputs]

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


def description(package: Package, files_url: str) -> dict[str, Any]:
    """The answer to a request without inputs. `files_url`: the server's URL, if it serves the files of packages; else empty."""
    return {"rdf": rdf_of_stored(package.manifest, files_url)}


def failure(error: BioEngineError, task_id: str, details: str = "") -> dict[str, Any]:
    """The answer to a request that cannot be served. `details`: of an error in the server itself, if its settings allow them."""
    return {"task_id": task_id, "success": False, "error": f"{error}{details}", "code": error.code}
