"""Prediction with bioimageio.core: pre-processing, weights and post-processing of one package, kept in memory."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from bioimageio.core import PredictionPipeline, Sample, Tensor, create_prediction_pipeline
from bioimageio.core.axis import AxisInfo
from bioimageio.core.digest_spec import get_member_id
from bioimageio.spec import InvalidDescr, load_description
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.errors import PackageUnreadable, WeightsDamaged
from bioengine_runner.store.manifest import Manifest

logger = logging.getLogger(__name__)


class Pipeline:
    """A package's prediction pipeline on this machine's device."""

    def __init__(self, manifest: Manifest, weights_format: str) -> None:
        """Open the package and its weights. Raises PackageUnreadable, WeightsDamaged."""
        self._manifest = manifest
        description = _open(manifest)
        self._inputs = [(get_member_id(spec), [AxisInfo.create(axis).id for axis in spec.axes]) for spec in description.inputs]
        self._outputs = [get_member_id(spec) for spec in description.outputs]
        try:
            self._pipeline: PredictionPipeline = create_prediction_pipeline(
                description,
                weights_format=_weights_format(weights_format),
                devices=_devices(weights_format),
            )
        except Exception as error:
            # Whatever the framework raises for a file that it cannot read.
            logger.exception("%s: the %s weights cannot be opened", manifest.id, weights_format)
            raise WeightsDamaged(
                manifest.id, manifest.weights[weights_format].source, f"they cannot be opened as {weights_format} weights"
            ) from error

    def predict(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Run the model on whole images in one go, without padding or cropping.

        Args:
            arrays: one for each input, with the model's axes and dtypes.

        Returns one array for each output, with the model's output axes.
        """
        sample = Sample(
            # Axes are always named: bioimageio.core would map a bare array's axes by their sizes.
            members={id: Tensor(array, dims=axes) for (id, axes), array in zip(self._inputs, arrays)},
            stat={},
            id=None,
        )
        # Padding by the halo and cropping, its default, does not reproduce a model's own test output.
        result = self._pipeline.predict_sample_without_blocking(sample, skip_input_padding=True, skip_output_cropping=True)
        return [np.asarray(result.members[id].data) for id in self._outputs]


def _open(manifest: Manifest) -> v0_4.ModelDescr | v0_5.ModelDescr:
    # A folder of our own store, never anything that a client named; all hashes were verified at import.
    description: Any = load_description(manifest.folder / "rdf.yaml", perform_io_checks=False)
    if isinstance(description, InvalidDescr) or not isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr)):
        raise PackageUnreadable(manifest.id, "its rdf.yaml does not describe a model any more")
    return description


def _weights_format(name: str) -> Literal["onnx", "torchscript"]:
    return "onnx" if name == "onnx" else "torchscript"


def _devices(weights_format: str) -> list[str]:
    """The one device to compute on: the first GPU where the framework has one, else the CPU.

    Named explicitly, since the default opens one session for each ONNX Runtime provider.
    """
    if weights_format == "onnx":
        import onnxruntime

        cuda = "CUDAExecutionProvider"
        return [cuda if cuda in onnxruntime.get_available_providers() else "CPUExecutionProvider"]
    import torch

    return ["cuda:0" if torch.cuda.is_available() else "cpu"]
