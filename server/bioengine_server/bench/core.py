"""What the server adds to a model: the same images by bioimageio.core in a process of its own, and by a client of the server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioengine_server.bench.client import Client
from bioengine_server.bench.errors import BenchFailed
from bioengine_server.bench.measurement import Measurement, interleaved
from bioengine_server.bench.stack import LIBRARIES, BenchStack

# The threads of ONNX Runtime look for work for some 40 ms after a run, and would find the next one of somebody else.
_REST = 0.1  # seconds

_WARM_UP = 1  # round, which loads the model

_LIBRARY = LIBRARIES[-1]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class _Image:
    name: str
    model: str
    shape: tuple[int, ...]
    added_limit: float | None = None
    """ms"""
    ratio_limit: float | None = None


_IMAGES = (
    _Image("256x256", "bench-unet", (1, 1, 256, 256), added_limit=12.0),
    _Image("1024x1024", "bench-unet", (1, 1, 1024, 1024), ratio_limit=1.05),
    _Image("64x256x256", "bench-unet-3d", (1, 1, 64, 256, 256), ratio_limit=1.05),
    # The least that a model can do for an image of this size, nearly: no limit, but it shows what is added.
    _Image("1024x1024, small model", "drawn-nuclei", (1, 1, 1024, 1024)),
)


def core(stack: BenchStack, rounds: int) -> list[Measurement]:
    measurements = []
    with ExitStack() as parts:
        alone = parts.enter_context(stack.core_user())
        user = parts.enter_context(stack.user(_LIBRARY))
        for image in _IMAGES:
            same = _SameImages(image, stack.folder)
            served = stack.watched(same.run_by(user), user)
            values = interleaved({"alone": same.run_by(alone), "served": served}, rounds, _WARM_UP, _REST)
            reference = Measurement(f"bioimageio.core {image.name}", "ms", values["alone"])
            limits = {"added_limit": image.added_limit, "ratio_limit": image.ratio_limit}
            name, cpu = f"{image.name}, {_LIBRARY}", served.cpu(rounds)
            measurements += [reference, Measurement(name, "ms", values["served"], reference, **limits, cpu=cpu)]
    return measurements


class _SameImages:
    """The same images for all, each with values of its own; what is made of them is compared."""

    def __init__(self, image: _Image, folder: Path) -> None:
        """
        Args:
            image: the model and the size.
            folder: for outputs on their way.
        """
        self._image = image
        self._file = folder / "output.npy"
        self._outputs: dict[int, np.ndarray] = {}

    def run_by(self, client: Client) -> Callable[[], float]:
        """What has `client` run its next image, and gives the milliseconds. Raises BenchFailed."""
        seeds = itertools.count()

        def run() -> float:
            seed = next(seeds)
            milliseconds = client.predict(self._image.model, self._image.shape, seed, self._file)
            output = np.load(self._file)
            # Whoever comes second compares; one pair at a time is kept.
            first = self._outputs.setdefault(seed, output)
            if first is not output:
                check_same(self._outputs.pop(seed), output, f"bioimageio.core and {_LIBRARY}")
            return milliseconds

        return run


def check_same(one: np.ndarray, other: np.ndarray, who: str) -> None:
    """Raises BenchFailed where two outputs are not the same but for rounding."""
    if one.shape != other.shape:
        raise BenchFailed(who, f"there is one result of {one.shape} pixels and one of {other.shape}")
    if not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
        raise BenchFailed(who, f"two results that should be the same differ by up to {np.abs(one - other).max():.1g}")
