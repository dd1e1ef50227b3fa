"""Objects from the output of a Cellpose network, by Cellpose's own dynamics: pixels follow the flows to an object's middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CellposeOptions:
    """How objects are found.

    `cellprob_threshold`: the value of the network's last channel, a logit, from which on a pixel belongs to an object.
    `flow_threshold`: objects whose flows differ more than this from those of their shape are dropped; 0: none. `min_size`:
    objects with fewer pixels are dropped.
    """

    cellprob_threshold: float = 0.0
    flow_threshold: float = 0.4
    min_size: int = 15


def cellpose_labels(prediction: np.ndarray, options: CellposeOptions) -> np.ndarray:
    """The objects in one image.

    Args:
        prediction: float32, (y, x, 3): the flow along y, along x, and the logit that the pixel belongs to an object.
        options: how objects are found.

    Returns int32, (y, x): 0 for the background, and from 1 on the number of the object.
    """
    from cellpose.dynamics import resize_and_compute_masks

    labels = resize_and_compute_masks(
        np.ascontiguousarray(np.moveaxis(prediction[..., :2], -1, 0)),
        # Where a flow is NaN or infinite, there is no way to an object.
        np.where(np.isfinite(prediction).all(axis=-1), prediction[..., 2], -np.inf),
        cellprob_threshold=options.cellprob_threshold,
        flow_threshold=options.flow_threshold,
        min_size=options.min_size,
    )
    return np.asarray(labels, dtype=np.int32)
