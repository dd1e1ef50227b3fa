"""`stardist`: a 2D StarDist model, as clients of the public server call it.

Inputs `image` (uint16, (y, x)) and `param` (JSON: `prob_thresh`, `nms_thresh`); output `mask` (uint16, (y, x)).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bioengine_runner.apps.app import App, as_mask
from bioengine_runner.apps.errors import AppInputRefused
from bioengine_runner.apps.parameters import Check, number
from bioengine_runner.apps.stardist_network import StarDistNetwork, open_stardist
from bioengine_runner.labels.stardist import StarDistOptions, stardist_labels

# Percentiles of the image that become 0 and 1, as in StarDist's own examples.
_DARK, _BRIGHT = 1, 99.8


class StarDistApp(App):
    parameters: ClassVar[Mapping[str, Check]] = {
        "prob_thresh": number(0, 1),
        "nms_thresh": number(0, 1),
        "diameter": number(0, 1e6),  # existing programs send it as for Cellpose; StarDist has no such parameter
    }

    @functools.cached_property
    def _model(self) -> tuple[StarDistNetwork, StarDistOptions]:
        return open_stardist(self.weights)

    def answer(self, image: np.ndarray, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
        if not image.size:
            raise AppInputRefused(f"its shape is {image.shape}", "an image with one channel, (y, x)")
        network, usual = self._model
        options = StarDistOptions(
            prob_thresh=parameters.get("prob_thresh", usual.prob_thresh),
            nms_thresh=parameters.get("nms_thresh", usual.nms_thresh),
            grid=usual.grid,
        )
        labels = stardist_labels(network.predict(normalized(image)), (image.shape[0], image.shape[1]), options)
        return {"mask": as_mask(labels)}


def normalized(image: np.ndarray) -> np.ndarray:
    """The image as float32, with its 1st percentile at 0 and its 99.8th at 1."""
    from csbdeep.utils import normalize

    return np.asarray(normalize(image, _DARK, _BRIGHT), dtype=np.float32)
