"""Run weights on made-up images, to find out whether they work on their device, and which are the fastest there."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
from bioimageio.core.common import MemberId

from bioengine_runner.cards import problems
from bioengine_runner.errors import WeightsFail
from bioengine_runner.opened import Opened
from bioengine_runner.reasons import in_short

logger = logging.getLogger(__name__)

# Pixels of the images that prove a device: the smallest image that the model accepts; and a larger one, in case the description
# allows images that are too small for the model.
_PROOFS = (1, 16_384)

# On the CPU, larger images are not run as a proof, because failures there are rare. 256x256 takes a U-Net 0.1 s on two cores.
_MAX_PIXELS_ON_CPU = 65_536

# To compare weights, images of these numbers of pixels are run in turn; how many rounds are not measured, and how many are.
_IN_TURN = (16_384, 65_536, 262_144)
_WARM_UP, _ROUNDS = 1, 2


class StepsNotTried(Exception):
    """The model's pre-processing fails on a made-up image, so the weights were not run."""


def prepared(opened: Opened, pixels: int) -> dict[MemberId, np.ndarray]:
    """A made-up image of about so many pixels, preprocessed for the weights. Raises StepsNotTried."""
    try:
        run = opened.signature.run(opened.pipeline(), opened.signature.made_up(pixels), float("inf"), None)
        return next(run.blocks()).arrays
    except (Exception, SystemExit) as error:  # a package's own steps may raise anything, and may not work on zeros
        raise StepsNotTried(in_short(error)) from None


def is_cheap(opened: Opened) -> bool:
    """Whether a proof takes little time, even on the CPU."""
    signature = opened.signature
    return signature.pixels(signature.made_up(_PROOFS[0])) <= _MAX_PIXELS_ON_CPU


def prove(opened: Opened) -> None:
    """Run weights on small images. Raises WeightsFail if they fail on all of them.

    Weights that can be opened cannot always be run: without cuDNN, or without code for the card, each run fails.
    """
    reasons = []
    for pixels in _PROOFS:
        try:
            arrays = prepared(opened, pixels)
        except StepsNotTried:
            return  # this says nothing about the weights
        try:
            opened.forward(arrays)
            return
        except Exception as error:
            reasons.append(in_short(error))
    known = problems() if opened.is_on_card else []
    raise WeightsFail(opened.signature.model_id, opened.weight_format, opened.device, reasons[0], known)


def give_back(opened: Opened) -> None:
    """Return the memory that the framework keeps for images, with the first small image that can be run."""
    for pixels in _PROOFS:
        try:
            opened.give_back(prepared(opened, pixels))
            return
        except Exception as error:
            logger.info("%s: a run on a small image fails (%s)", opened.signature.model_id, in_short(error))


def fastest(candidates: Sequence[Opened]) -> tuple[Opened, dict[str, float]]:
    """The fastest of several weights of a model on one device, and for each the seconds for images of three sizes in turn.

    Weights that fail take infinitely long. None are closed.
    """
    seconds = {opened.weight_format: _seconds_in_turn(opened) for opened in candidates}
    return min(candidates, key=lambda opened: seconds[opened.weight_format]), seconds


def _seconds_in_turn(opened: Opened) -> float:
    """The seconds for one image of each size, on average."""
    try:
        images = [prepared(opened, pixels) for pixels in _IN_TURN]
        for image in images * _WARM_UP:
            opened.forward(image)
        started = time.perf_counter()
        for image in images * _ROUNDS:
            opened.forward(image)
        return (time.perf_counter() - started) / _ROUNDS
    except Exception:
        return float("inf")
