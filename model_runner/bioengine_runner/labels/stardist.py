"""Objects from the output of a StarDist network, by StarDist's own non-maximum suppression and rendering of polygons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from bioengine_contract.errors import RequestError

# As in StarDist's own prediction: smaller distances make polygons without an area.
_MIN_DISTANCE = 1e-3  # pixels
# Times the image's diagonal: what is farther away makes no difference, and takes minutes.
_MAX_DISTANCE = 4
# Pairs of candidates that are compared, each in some microseconds and all in one go, which nothing can stop.
_MAX_PAIRS = 1e8


class TooManyCandidates(RequestError):
    code = "too_many_candidates"

    def __init__(self, candidates: int, prob_thresh: float, nms_thresh: float) -> None:
        super().__init__(
            f"With prob_thresh {prob_thresh:g}, {candidates} positions of this image are candidates for objects, and with "
            f"nms_thresh {nms_thresh:g} most of them would stay and be compared with each other, which takes too long. Raise "
            "prob_thresh, lower nms_thresh, or send parts of the image."
        )


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

    Returns int32 of that shape: 0 for the background, and from 1 on the number of the object. Raises TooManyCandidates.
    """
    from stardist.geometry import polygons_to_label
    from stardist.nms import non_maximum_suppression

    if prediction.shape[:2] == shape:
        prediction = prediction[:: options.grid[0], :: options.grid[1]]
    prob = np.where(np.isfinite(prediction).all(axis=-1), prediction[..., 0], 0)  # NaN and infinity are no objects
    dist = np.clip(prediction[..., 1:], _MIN_DISTANCE, _MAX_DISTANCE * math.hypot(*shape))
    _check_candidates(prob, dist, options)
    points, scores, distances = non_maximum_suppression(
        dist, prob, grid=options.grid, prob_thresh=options.prob_thresh, nms_thresh=options.nms_thresh
    )
    if not len(points):
        return np.zeros(shape, np.int32)
    return np.asarray(polygons_to_label(distances, points, prob=scores, shape=shape), dtype=np.int32)


def _check_candidates(prob: np.ndarray, dist: np.ndarray, options: StarDistOptions) -> None:
    """Raises TooManyCandidates.

    Each candidate is compared with those around it that stay. Of discs of the radius r, those that stay are at least
    pi/2 * r * (1 - nms_thresh) apart.
    """
    are_candidates = prob > options.prob_thresh
    if not (candidates := int(are_candidates.sum())):
        return
    around = 4 * math.pi * float(np.mean(np.square(dist[are_candidates], dtype=np.float64))) / math.prod(options.grid)
    stay = 16 / (math.pi * max(1 - options.nms_thresh, 1e-6) ** 2)
    if candidates * min(around, stay, candidates) > _MAX_PAIRS:
        raise TooManyCandidates(candidates, options.prob_thresh, options.nms_thresh)
