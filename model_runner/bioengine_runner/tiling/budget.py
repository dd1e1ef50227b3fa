"""How many pixels may go through a model at once, according to the memory of the device, and to what has worked before.

The memory for each pixel is first measured with a made-up image, and then corrected by measuring real runs. Frameworks keep
memory for the next run, so a run that fits into the kept memory shows nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from bioengine_runner.tiling.memory import DeviceMemory, watched

logger = logging.getLogger(__name__)

# Used if it cannot be measured: what a large U-Net takes for each pixel.
_BYTES_PER_PIXEL = 4096.0
_MIN_BYTES_PER_PIXEL = 64.0

# ONNX Runtime's arena grows by powers of two: a U-Net that is seen to take 1024 bytes a pixel at 512x512 takes between 790 and
# 1310 for larger images, and 512 without an arena (1.32, two cores).
_ARENA = 1.5

# One run may take this share of the free memory, because others run at the same time, and never more than this number of bytes.
SHARE = 0.5
MAX_BYTES = 8e9

# The largest tile, even if there is memory for larger ones: they are not faster.
_MAX_TILE = 1_500_000  # pixels

# Images of at most so many pixels are run without checking the memory.
SMALL = 1_100_000  # pixels

# Pixels of the made-up image that a model's memory is measured with.
PROBE = 262_144


class Budget:
    """The budget of one model's process."""

    def __init__(self, model_id: str, memory: DeviceMemory, probe: Callable[[], int]) -> None:
        """
        Args:
            model_id: the model's id, for the log.
            memory: the memory of the device that computes.
            probe: runs the weights on an image of about `PROBE` pixels, without any memory kept from before, and returns the
                number of its pixels. It may raise anything.
        """
        self._model_id = model_id
        self._memory = memory
        self._probe = probe
        self._bytes_per_pixel: float | None = None
        self._worked = float("inf")

    def most_pixels(self, given: int) -> float:
        """How many pixels (samples times image pixels) may go through the model at once, for an image that has `given` pixels."""
        if given <= SMALL:
            return self._worked if given > self._worked else float("inf")
        allowed = min(self.free() * SHARE, MAX_BYTES) / self._measured()
        return min(self._worked, given if given <= allowed else min(allowed, _MAX_TILE))

    def needs(self, pixels: float) -> float | None:
        """The bytes that so many pixels take at once; None if that is not known."""
        if pixels <= SMALL or self._bytes_per_pixel is None or self._bytes_per_pixel == _BYTES_PER_PIXEL:
            return None
        return pixels * self._bytes_per_pixel

    def free(self) -> int:
        """The bytes that a run can use: free memory, and memory that this process keeps for images."""
        return self._memory.free() + self._memory.kept()

    def worked(self, most: float) -> None:
        """Remember that more than so many pixels at once failed, but these worked: later requests begin with them."""
        self._worked = most

    @contextlib.contextmanager
    def learning(self, pixels: int) -> Iterator[None]:
        """While the context is open, so many pixels are run at once: learn how much memory they take."""
        if pixels <= SMALL:
            yield
            return
        kept = self._memory.kept()
        with watched(self._memory) as peak:
            yield
        if peak.bytes:
            self._learn((kept + peak.bytes) / pixels)

    def _learn(self, seen: float) -> None:
        if self._bytes_per_pixel is not None and seen > self._bytes_per_pixel:
            logger.info("%s: takes %.0f bytes of memory for a pixel", self._model_id, seen)
            self._bytes_per_pixel = seen

    def _measured(self) -> float:
        if self._bytes_per_pixel is None:
            self._bytes_per_pixel = self._tried_out()
        return self._bytes_per_pixel

    def _tried_out(self) -> float:
        try:
            with watched(self._memory) as peak:
                pixels = self._probe()
        except Exception as error:
            logger.warning("%s: its memory could not be measured (%s)", self._model_id, error)
            return _BYTES_PER_PIXEL
        measured = max(_ARENA * peak.bytes / pixels, _MIN_BYTES_PER_PIXEL) if peak.bytes else _BYTES_PER_PIXEL
        logger.info("%s: takes about %.0f bytes of memory for a pixel", self._model_id, measured)
        return measured
