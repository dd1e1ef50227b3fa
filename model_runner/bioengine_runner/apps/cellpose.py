"""`cellpose-python`: Cellpose, as clients of the public server call it.

Inputs `image` (float32, (channel, y, x) or (y, x, channel)) and `param` (JSON: `diameter`, `model_type`, `channels` and further
arguments of Cellpose's `eval`); outputs `mask` (uint16, (1, y, x)) and `info` (JSON).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bioengine_runner.apps.app import App, as_json, as_mask
from bioengine_runner.apps.cellpose_size import MAX_STEPS, checked_steps
from bioengine_runner.apps.errors import AppInputRefused, AppParameterRefused
from bioengine_runner.apps.parameters import Check, flag, name, number, whole
from bioengine_runner.rundir import Boot

if TYPE_CHECKING:
    from cellpose.models import CellposeModel

# What the public server took where a request says nothing: the first channel shows the cells, the second one their nuclei.
_CHANNELS = [1, 2]
_MAX_CHANNELS = 5  # Cellpose takes a smallest axis of more for z


def _channels(value: Any) -> str | None:
    is_pair = isinstance(value, list) and len(value) == 2 and all(whole(0, _MAX_CHANNELS)(item) is None for item in value)
    return None if is_pair else "two channels, such as [1, 2]: of the cells and of their nuclei; 0: the mean of all, or none"


class CellposeApp(App):
    parameters: ClassVar[Mapping[str, Check]] = {
        "model_type": name,
        "diameter": number(0, 1e4),
        "channels": _channels,
        "channel_axis": whole(-3, 2),
        "flow_threshold": number(0, 1e3),
        "cellprob_threshold": number(-1e3, 1e3),
        "min_size": whole(-1, 10**9),
        "max_size_fraction": number(0, 1),
        "niter": whole(0, MAX_STEPS),
        "normalize": flag,
        "invert": flag,
        "resample": flag,
        "augment": flag,
        "interp": flag,
        "tile_overlap": number(0.05, 0.5),
        "batch_size": whole(1, 64),
        # Of Cellpose 1 and 2; version 3 has one network and always makes tiles.
        "net_avg": flag,
        "tile": flag,
    }

    def initialize(self, args: dict[str, str]) -> None:
        super().initialize(args)
        self._opened: dict[str, CellposeModel] = {}

    def answer(self, image: np.ndarray, parameters: dict[str, Any]) -> dict[str, np.ndarray]:
        if image.ndim != 3 or not image.size or min(image.shape) > _MAX_CHANNELS:
            raise AppInputRefused(f"its shape is {image.shape}", f"(channel, y, x) with at most {_MAX_CHANNELS} channels")
        model_type, model = self._model(parameters.pop("model_type", None))
        for ignored in ("net_avg", "tile"):
            parameters.pop(ignored, None)
        diameter = parameters.pop("diameter", None) or float(model.diam_labels)
        parameters["niter"] = checked_steps(image.shape, diameter, float(model.diam_mean), parameters)
        labels, _, _ = model.eval(image, diameter=diameter, **{"channels": _CHANNELS, **parameters})
        info = {"model_type": model_type, "diameter": diameter, "objects": int(labels.max(initial=0))}
        return {"mask": as_mask(labels)[np.newaxis], "info": as_json(info)}

    def _model(self, model_type: str | None) -> tuple[str, CellposeModel]:
        """The network that a request asks for; without a name `cyto`, as on the public server, or else the first one.

        Raises AppParameterRefused.
        """
        # Imported by the first request: Cellpose compiles for seconds, for which Triton's start would wait.
        from bioengine_runner.apps.cellpose_network import open_cellpose, weight_files

        files = weight_files(self.weights)
        chosen = model_type or ("cyto" if "cyto" in files else next(iter(files)))
        if chosen not in files:
            raise AppParameterRefused(
                f"there are no weights for the model_type {chosen[:60]!r} here, only for {', '.join(files)}. Use one of these, "
                "or ask the server's admin to install others."
            )
        if chosen not in self._opened:
            self._opened[chosen] = open_cellpose(files[chosen], Boot.from_environment().accelerator != "cpu")
        return chosen, self._opened[chosen]
