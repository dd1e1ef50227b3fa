"""ONNX Runtime sessions on a card, one for each of a few shapes that occur again and again.

Whenever the shape of the input changes, ONNX Runtime makes a new plan for its convolutions, and a session keeps only one plan. On
one H200, a U-Net takes 1 ms for 256x256, but 19 to 105 ms if the sizes 256, 512 and 1024 come in turn. A shape that has a session
of its own keeps its plan. Each further session holds the weights on the card once more.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# Sessions beside the first one.
MAX_FURTHER = 3

# A shape gets a session of its own when it has been planned so many times: opening a session takes as long as several plans.
AGAIN = 3

_MAX_COUNTED = 64  # shapes

Shape = tuple[tuple[int, ...], ...]
"""The shapes of all inputs of a run, in their order."""


class SessionsByShape:
    """Stands in for an ONNX Runtime session: runs each input in the session for its shape; all else is the first session's."""

    def __init__(self, first: Any, open_another: Callable[[], Any], has_room: Callable[[], bool]) -> None:
        """
        Args:
            first: the session for all shapes that have no session of their own.
            open_another: opens a further session of the same weights.
            has_room: whether the card has memory for a further session.
        """
        self._first = first
        self._open_another = open_another
        self._has_room = has_room
        self._further: OrderedDict[Shape, Any] = OrderedDict()
        self._max_further = MAX_FURTHER
        self._planned: Shape | None = None  # the shape that the first session has its plan for
        self._counts: Counter[Shape] = Counter()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def run(self, outputs: Any, feed: Mapping[str, np.ndarray], options: Any = None) -> Any:
        with self._lock:
            session = self._session(tuple(array.shape for array in feed.values() if array is not None))
        return session.run(outputs, feed, options)

    @property
    def all(self) -> list[Any]:
        """All sessions; each has memory of its own."""
        with self._lock:
            return [self._first, *self._further.values()]

    @property
    def shapes(self) -> list[Shape]:
        """The shapes that have sessions of their own."""
        with self._lock:
            return list(self._further)

    def keep_one(self) -> None:
        """Close all sessions but the first, and open no more: the card does not have enough memory."""
        with self._lock:
            self._further.clear()
            self._max_further = 0

    def _session(self, shape: Shape) -> Any:
        if shape in self._further:
            self._further.move_to_end(shape)
            return self._further[shape]
        if shape == self._planned:
            return self._first
        if len(self._counts) >= _MAX_COUNTED:
            self._counts.clear()
        self._counts[shape] += 1
        if self._planned is not None and self._counts[shape] >= AGAIN and (session := self._another()):
            logger.info("Shape %s has an ONNX Runtime session of its own", " ".join(map(str, shape)))
            self._further[shape] = session
            return session
        self._planned = shape
        return self._first

    def _another(self) -> Any:
        """A session for a new shape: a further one, or that of the least recently used shape; None if there can be none."""
        if self._max_further and len(self._further) >= self._max_further:
            return self._further.popitem(last=False)[1]
        if len(self._further) >= self._max_further or not self._has_room():
            return None
        try:
            return self._open_another()
        except Exception as error:
            logger.warning("No further ONNX Runtime session could be opened: %s", error)
            self._max_further = len(self._further)
            return None
