"""Prediction with bioimageio.core: pre-processing, weights and post-processing of one package, kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bioimageio.core import Sample, Tensor
from bioimageio.core.axis import AxisInfo
from bioimageio.core.digest_spec import get_member_id
from bioimageio.spec import InvalidDescr, load_description
from bioimageio.spec.model import v0_4, v0_5

from bioengine_runner.errors import PackageUnreadable
from bioengine_runner.rundir import Boot
from bioengine_runner.store.manifest import RDF, Manifest
from bioengine_runner.weights import open_weights


class Pipeline:
    """A package's prediction pipeline on this machine's device."""

    def __init__(self, manifest: Manifest, weight_formats: Sequence[str], boot: Boot) -> None:
        """Open the package and its weights. Raises PackageUnreadable, and what `open_weights` raises."""
        self._manifest = manifest
        description = _open(manifest)
        self._inputs = [(get_member_id(spec), [AxisInfo.create(axis).id for axis in spec.axes]) for spec in description.inputs]
        self._outputs = [get_member_id(spec) for spec in description.outputs]
        self.opened = open_weights(manifest, description, weight_formats, boot)
        self._pipeline = self.opened.pipeline

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
    # A folder of our own store, never anything that a client named; its hash is that of its import.
    description: Any = load_description(manifest.folder / RDF, perform_io_checks=False)
    if isinstance(description, InvalidDescr) or not isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr)):
        raise PackageUnreadable(manifest.id, "its rdf.yaml does not describe a model any more")
    return description
