"""How much time the server adds: the same images are run by bioimageio.core without a server, and by a client of the server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioengine_server.bench.client import Client
from bioengine_server.bench.errors import BenchFailed
from bioengine_server.bench.measurement import Measurement, interleaved, is_trial
from bioengine_server.bench.stack import LIBRARIES, BenchStack

# After a run, the threads of ONNX Runtime stay busy for some 40 ms, and would slow down the next measurement.
_REST = 0.1  # seconds

_WARM_UP = 1  # round, which loads the model

_LIBRARY = LIBRARIES[-1]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class _Image:
    name: str
    model: str
    shape: tuple[int, ...]
    small: tuple[int, ...]
    """A shape that costs nearly nothing."""
    added_limit: float | None = None
    """ms"""
    ratio_limit: float | None = None


_IMAGES = (
    _Image("256x256", "bench-unet", (1, 1, 256, 256), (1, 1, 104, 104), added_limit=12.0),
    _Image("1024x1024", "bench-unet", (1, 1, 1024, 1024), (1, 1, 104, 104), ratio_limit=1.05),
    _Image("64x256x256", "bench-unet-3d", (1, 1, 64, 256, 256), (1, 1, 20, 20, 20), ratio_limit=1.05),
    # A model that does nearly nothing with an image of this size. It has no limit, but shows what the server adds.
    _Image("1024x1024, small model", "drawn-nuclei", (1, 1, 1024, 1024), (1, 1, 72, 72)),
)


def core(stack: BenchStack, rounds: int) -> list[Measurement]:
    measurements = []
    with ExitStack() as parts:
        alone = parts.enter_context(stack.core_user())
        user = parts.enter_context(stack.user(_LIBRARY))
        for image in _IMAGES:
            same = _SameImages(image, stack.folder)
            served = stack.watched(same.run_by(user), user)
            if is_trial(rounds):  # a small image loads the model as well
                for client in (alone, user):
                    client.predict(image.model, image.small, 0, stack.folder / "small.npy")
            warm_up = 0 if is_trial(rounds) else _WARM_UP
            values = interleaved({"alone": same.run_by(alone), "served": served}, rounds, warm_up, _REST)
            reference = Measurement(f"bioimageio.core {image.name}", "ms", values["alone"])
            limits = {"added_limit": image.added_limit, "ratio_limit": image.ratio_limit}
            name, cpu = f"{image.name}, {_LIBRARY}", served.cpu(rounds)
            measurements += [reference, Measurement(name, "ms", values["served"], reference, **limits, cpu=cpu)]
    return measurements


class _SameImages:
    """Gives every client the same series of random images, and compares their outputs."""

    def __init__(self, image: _Image, folder: Path) -> None:
        """
        Args:
            image: the model and the size.
            folder: for outputs until they are compared.
        """
        self._image = image
        self._file = folder / "output.npy"
        self._outputs: dict[int, np.ndarray] = {}

    def run_by(self, client: Client) -> Callable[[], float]:
        """A function that has `client` run its next image, and returns milliseconds; it raises BenchFailed."""
        seeds = itertools.count()

        def run() -> float:
            seed = next(seeds)
            milliseconds = client.predict(self._image.model, self._image.shape, seed, self._file)
            output = np.load(self._file)
            # The second of the two clients compares; only one pair of outputs is kept.
            first = self._outputs.setdefault(seed, output)
            if first is not output:
                check_same(self._outputs.pop(seed), output, f"bioimageio.core and {_LIBRARY}")
            return milliseconds

        return run


def check_same(one: np.ndarray, other: np.ndarray, who: str) -> None:
    """Raises BenchFailed if two outputs differ by more than rounding."""
    if one.shape != other.shape:
        raise BenchFailed(who, f"there is one result of {one.shape} pixels and one of {other.shape}")
    if not np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
        raise BenchFailed(who, f"two results that should be the same differ by up to {np.abs(one - other).max():.1g}")
