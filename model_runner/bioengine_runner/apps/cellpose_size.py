"""The size in which Cellpose's network sees an image, and how long its pixels move: both follow from what a client says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bioengine_runner.apps.errors import AppParameterRefused

_MAX_PIXELS = 1 << 27  # of the image in the size in which the network sees it, without its channels
MAX_STEPS = 10**4  # by which pixels follow the flows
_USUAL_STEPS = 200  # of Cellpose, for an object with the diameter of the network's training


def checked_steps(shape: tuple[int, ...], diameter: float, trained: float, parameters: Mapping[str, Any]) -> int | None:
    """The steps by which pixels follow the flows; None for Cellpose's own number.

    Cellpose resizes an image so that its objects get the diameter with which the network was trained: to any size, for a client
    that says so. Its own number of steps grows with the diameter.

    Args:
        shape: of the image, with its channels.
        diameter, trained: of the objects in the image, and in the images of the training.
        parameters: of the request.

    Raises AppParameterRefused if the image would become too large, or nothing.
    """
    channels = shape.index(min(shape)) if "channel_axis" not in parameters else parameters["channel_axis"] % 3
    height, width = (size * trained / diameter for axis, size in enumerate(shape) if axis != channels)
    if not (min(height, width) >= 1 and height * width <= _MAX_PIXELS):
        raise AppParameterRefused(
            f"'diameter' is {diameter:g}: the network sees objects with a diameter of {trained:g} pixels, and would see this "
            f"image with {height:.0f}x{width:.0f} pixels, of at most {_MAX_PIXELS}. "
            "Expected the diameter of the objects in the image."
        )
    given = parameters.get("niter")
    return given if given or _USUAL_STEPS * diameter / trained <= MAX_STEPS else MAX_STEPS
