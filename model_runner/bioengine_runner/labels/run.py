"""Labels of a whole batch of images, from the first output of a model, by the method that its description names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bioengine_contract.axes import BATCH, CHANNEL, SPACE
from bioengine_contract.labels import LabelMethod, LabelsNotInstalled, NoLabels
from bioengine_contract.manifest import Manifest

from bioengine_runner.labels.cellpose import CellposeOptions, cellpose_labels
from bioengine_runner.labels.stardist import StarDistOptions, stardist_labels

# The largest number up to which a float of this dtype holds all whole numbers.
_EXACT = {"float32": 1 << 24, "float64": 1 << 53}


def use_packages(environment: Path | None) -> None:
    """Make the packages of `labels` importable, an environment built on top of this one. Raises LabelsNotInstalled."""
    folders = [] if environment is None else [str(folder) for folder in environment.glob("lib/python3.*/site-packages")]
    if not folders:
        raise LabelsNotInstalled
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def with_labels(
    manifest: Manifest, method: LabelMethod, arrays: Sequence[np.ndarray | None], outputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The outputs of a run with labels in place of the first one.

    Args:
        manifest: of the model, for which `bioengine_contract.labels.method_for` has found the method.
        method: how objects are found.
        arrays: the inputs of the run.
        outputs: of the network, for whole images.

    The labels have the axes and the dtype of the output that they replace, one channel, and the size of the image; every image of
    a batch is numbered from 1. Raises NoLabels.
    """
    axes, output = manifest.outputs[0].axes, outputs[0]
    places = {axis.type if axis.type != SPACE else axis.id: index for index, axis in enumerate(axes)}
    order = [places[name] for name in (BATCH, "y", "x", CHANNEL) if name in places]
    predictions = np.moveaxis(output, order, range(len(order))).reshape(-1, *(output.shape[index] for index in order[-3:]))
    shape = _image_size(manifest, arrays)
    found = np.stack([_labels(manifest, method, prediction, shape) for prediction in predictions])[..., np.newaxis]
    if found.max(initial=0) > _EXACT[manifest.outputs[0].dtype]:
        raise NoLabels(manifest.id, "there are more objects than its output can number")
    batch = [output.shape[places[BATCH]]] if BATCH in places else []
    labels = np.moveaxis(found.reshape(*batch, *found.shape[1:]), range(len(order)), order)
    return [np.ascontiguousarray(labels, dtype=output.dtype), *outputs[1:]]


def _labels(manifest: Manifest, method: LabelMethod, prediction: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The objects in one image, int32, of this shape; `prediction` is (y, x, channel)."""
    steps = [size / given for size, given in zip(shape, prediction.shape)]
    if method.name == "cellpose":
        if prediction.shape != (*shape, 3):
            raise NoLabels(manifest.id, f"its output has the shape {prediction.shape} for an image of {shape}, not 3 channels")
        return cellpose_labels(prediction, CellposeOptions(**method.options))
    if prediction.shape[2] < 4 or min(steps) < 1:
        raise NoLabels(manifest.id, f"its output has the shape {prediction.shape} for an image of {shape}, not 3 or more rays")
    grid = method.options.get("grid") or [round(step) for step in steps]
    options = StarDistOptions(**{**method.options, "grid": (grid[0], grid[1])})
    return stardist_labels(prediction, shape, options)


def _image_size(manifest: Manifest, arrays: Sequence[np.ndarray | None]) -> tuple[int, int]:
    """The size of the images in the first input, (y, x)."""
    spec, image = next((spec, array) for spec, array in zip(manifest.inputs, arrays) if array is not None)
    sizes = {axis.id: size for axis, size in zip(spec.axes, image.shape)}
    if not {"y", "x"} <= set(sizes):
        raise NoLabels(manifest.id, f"its input '{spec.id}' is not an image")
    return sizes["y"], sizes["x"]
