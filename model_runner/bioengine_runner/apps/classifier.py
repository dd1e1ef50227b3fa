"""`bestfitting-inceptionv3-single-cell`: classes of proteins in single cells, as clients of the public server call it.

Input `image` (float32, (4, 128, 128): red, green, blue and yellow, from 0 to 1); outputs `classes` (float32, (19,)) and
`features` (float32, (2048,)).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime

from bioengine_runner.apps.app import App
from bioengine_runner.apps.classifier_network import NETWORK, open_classifier, run_classifier


class ClassifierApp(App):
    @functools.cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_classifier(self.weights / NETWORK)

    def answer(self, image: np.ndarray, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
        return run_classifier(self._session, image)
