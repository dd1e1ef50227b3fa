"""Runs of weights on made-up images: whether they work where they were opened, and which are the fastest there."""

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

# Pixels of the images that prove a device: the smallest that the model takes, or, where its description promises too much of
# itself, a usual one.
_PROOFS = (1, 16_384)

# A proof that costs more is not asked for on the CPU, where it never failed alone: 256x256 takes a U-Net 0.1 s on two cores.
_MAX_PIXELS_ON_CPU = 65_536

# Sizes in turn, as users send them, in pixels; how often before it counts, and while it does.
_IN_TURN = (16_384, 65_536, 262_144)
_WARM_UP, _ROUNDS = 1, 2


class StepsNotTried(Exception):
    """The model's own steps before the weights fail on a made-up image."""


def prepared(opened: Opened, pixels: int) -> dict[MemberId, np.ndarray]:
    """A made-up image of about so many pixels, as the weights take it: integers become floats on their way.

    Raises StepsNotTried.
    """
    try:
        run = opened.signature.run(opened.pipeline(), opened.signature.made_up(pixels), float("inf"), None)
        return next(run.blocks()).arrays
    except (Exception, SystemExit) as error:  # of the package's own steps as well, which may not be made for zeros
        raise StepsNotTried(in_short(error)) from None


def is_cheap(opened: Opened) -> bool:
    """Whether a proof takes no time worth a word on any device."""
    signature = opened.signature
    return signature.pixels(signature.made_up(_PROOFS[0])) <= _MAX_PIXELS_ON_CPU


def prove(opened: Opened) -> None:
    """Run weights on a small image. Raises WeightsFail where they fail on each that is tried.

    That a session opens does not mean that it runs: without cuDNN, or without code for a card, each of its runs fails.
    """
    reasons = []
    for pixels in _PROOFS:
        try:
            arrays = prepared(opened, pixels)
        except StepsNotTried:
            return  # nothing of the weights
        try:
            opened.forward(arrays)
            return
        except Exception as error:
            reasons.append(in_short(error))
    known = problems() if opened.is_on_card else []
    raise WeightsFail(opened.signature.model_id, opened.weight_format, opened.device, reasons[0], known)


def give_back(opened: Opened) -> None:
    """Have the framework return the memory that it keeps for images: a session of ONNX Runtime does so at the end of a run."""
    for pixels in _PROOFS:
        try:
            opened.give_back(prepared(opened, pixels))
            return
        except Exception as error:
            logger.info("%s: a run on a small image fails (%s)", opened.signature.model_id, in_short(error))


def fastest(candidates: Sequence[Opened]) -> tuple[Opened, dict[str, float]]:
    """The fastest of some weights of one model on one device, and the seconds that each takes for images of a few sizes in turn.

    None of them is closed. One that fails at it takes for ever.
    """
    seconds = {opened.weight_format: _seconds_in_turn(opened) for opened in candidates}
    return min(candidates, key=lambda opened: seconds[opened.weight_format]), seconds


def _seconds_in_turn(opened: Opened) -> float:
    """For one image of each size, on average."""
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
