"""Objects from the output of a StarDist network, by StarDist's own non-maximum suppression and rendering of polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# As in StarDist's own prediction: smaller distances make polygons without an area.
_MIN_DISTANCE = 1e-3  # pixels


@dataclass(frozen=True)
class StarDistOptions:
    """How objects are found.

    `prob_thresh`: the object probability above which a pixel is a candidate. `nms_thresh`: the overlap of two candidates, from 0
    to 1, above which the less probable one is dropped. `grid`: how many pixels of the image one position of the network's output
    stands for, along y and x.
    """

    prob_thresh: float = 0.5
    nms_thresh: float = 0.4
    grid: tuple[int, int] = (1, 1)


def stardist_labels(prediction: np.ndarray, shape: tuple[int, int], options: StarDistOptions) -> np.ndarray:
    """The objects in one image.

    Args:
        prediction: float32, (y, x, 1 + rays): the object probability, and the distances to the object's border, in pixels. It may
            have one position for each cell of the grid, or be repeated to the image's size, as StarDist exports it.
        shape: of the image, (y, x).
        options: how objects are found.

    Returns int32 of that shape: 0 for the background, and from 1 on the number of the object.
    """
    from stardist.geometry import polygons_to_label
    from stardist.nms import non_maximum_suppression

    if prediction.shape[:2] == shape:
        prediction = prediction[:: options.grid[0], :: options.grid[1]]
    prob, dist = prediction[..., 0], np.maximum(prediction[..., 1:], _MIN_DISTANCE)
    points, scores, distances = non_maximum_suppression(
        dist, prob, grid=options.grid, prob_thresh=options.prob_thresh, nms_thresh=options.nms_thresh
    )
    if not len(points):
        return np.zeros(shape, np.int32)
    return np.asarray(polygons_to_label(distances, points, prob=scores, shape=shape), dtype=np.int32)
